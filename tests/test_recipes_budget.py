"""The comparison at equal cost compares equal costs, under the same rules for all."""

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.deploy import macs_per_token
from sparsernn.models import MODELS
from sparsernn.runs.recipe import list_recipes, load_recipe

FAMILY = [name for name in list_recipes() if name.startswith("budget/")]
MASKED = ["rigl", "selfish", "set", "snfs", "static"]
VOCABULARY = {"vocabulary_size": 10_000}


def model_of(name):
    return make("model", MODELS, load_recipe(name).model, **VOCABULARY)


def parameters(name):
    with torch.device("meta"):
        return sum(p.numel() for p in model_of(name).parameters())


def active():
    """Of 2x200 at the density of the sparse recipes: every matrix is masked, no bias is."""
    with torch.device("meta"):
        sizes = [(p.ndim, p.numel()) for p in model_of("budget/selfish").parameters()]
    density = load_recipe("budget/selfish").sparsity["density"]
    return sum(density * numel if dimensions == 2 else numel for dimensions, numel in sizes)


def test_a_third_of_the_wide_network_is_as_large_as_the_narrow_one_and_the_blocks():
    assert parameters("budget/dense-wide") == 4_653_200
    assert active() == pytest.approx(1_544_400)
    assert parameters("budget/dense-narrow") == pytest.approx(active(), rel=0.01)
    assert parameters("budget/blocks") == pytest.approx(parameters("budget/dense-narrow"), rel=1e-4)


def test_a_third_of_the_wide_network_multiplies_as_often_as_the_one_of_equal_operations():
    sparse = 0.33 * macs_per_token(model_of("budget/dense-wide"))
    assert macs_per_token(model_of("budget/dense-operations")) == pytest.approx(sparse, rel=0.01)


@pytest.mark.parametrize("name", FAMILY)
def test_all_are_trained_alike(name):
    own, common = load_recipe(name), load_recipe("budget/dense-wide")
    for part in ("task", "seed", "epochs", "clip", "threads"):
        assert getattr(own, part) == getattr(common, part)
    assert own.model["dropout"] == common.model["dropout"]


@pytest.mark.parametrize("method", MASKED)
def test_masked_networks_differ_in_the_method_alone(method):
    own, common = load_recipe(f"budget/{method}"), load_recipe("budget/selfish")
    assert (own.model, own.optimizer) == (common.model, common.optimizer)
    assert (own.sparsity["name"], own.sparsity["density"]) == (method, common.sparsity["density"])
    assert own.sparsity["rescale"] == "fan_in"
