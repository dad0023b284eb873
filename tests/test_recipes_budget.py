"""The comparison at equal cost compares equal costs, under the same rules for all."""

import re
from pathlib import Path

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.deploy import macs_per_token
from sparsernn.models import MODELS
from sparsernn.runs.recipe import list_recipes, load_recipe

FAMILY = [name for name in list_recipes() if name.startswith("budget/")]
MASKED = ["rigl", "selfish", "set", "snfs", "static"]
VOCABULARY = {"vocabulary_size": 10_000}


def model_of(name, width=None):
    sizes = {} if width is None else {"embedding_size": width, "hidden_sizes": [width, width]}
    return make("model", MODELS, load_recipe(name).model | sizes, **VOCABULARY)


def parameters(name, width=None):
    with torch.device("meta"):
        return sum(p.numel() for p in model_of(name, width).parameters())


def active(width=None):
    """Of 2x200, or as wide as is said, at the density of the sparse recipes: every matrix is masked, no bias is."""
    with torch.device("meta"):
        sizes = [(p.ndim, p.numel()) for p in model_of("budget/selfish", width).parameters()]
    density = load_recipe("budget/selfish").sparsity["density"]
    return sum(density * numel if dimensions == 2 else numel for dimensions, numel in sizes)


def test_a_third_of_the_wide_network_is_as_large_as_the_narrow_one_and_the_blocks():
    assert parameters("budget/dense-wide") == 4_653_200
    assert active() == pytest.approx(1_544_400)
    assert parameters("budget/dense-narrow") == pytest.approx(active(), rel=0.01)
    assert parameters("budget/blocks") == pytest.approx(parameters("budget/dense-narrow"), rel=1e-4)


def test_the_size_larger_that_the_page_names_is_equal_too():
    page = (Path(__file__).parents[1] / "docs" / "budget.md").read_text(encoding="utf-8")
    wide, narrow = (int(width) for width in re.findall(r"`model\.embedding_size=(\d+) ", page))
    assert wide > 200
    assert parameters("budget/dense-narrow", narrow) == pytest.approx(active(wide), rel=0.01)


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
