"""The recipes of the mixture of softmaxes: what the original commands say, and siblings that differ in the method."""

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.models import MODELS
from sparsernn.runs.recipe import DESCRIPTION, load_recipe

# recipe -> vocabulary, parameters (that of WikiText-2 as users of the original code logged it)
SIZES = {"selfish/mos-ptb": (10_000, 21_500_620), "selfish/mos-wt2": (33_278, 34_909_528)}


@pytest.mark.parametrize("name", SIZES)
def test_the_models_have_the_published_sizes(name):
    vocabulary, parameters = SIZES[name]
    with torch.device("meta"):
        model = make("model", MODELS, load_recipe(name).model, vocabulary_size=vocabulary)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_original_commands_are_reproduced():
    ptb, wt2 = load_recipe("selfish/mos-ptb"), load_recipe("selfish/mos-wt2")
    assert (ptb.seed, ptb.epochs, ptb.clip, ptb.optimizer["lr"]) == (28, 1000, 0.25, 20)
    assert (wt2.seed, wt2.epochs, wt2.clip, wt2.optimizer["lr"]) == (1882, 1000, 0.25, 15)
    assert (ptb.task["batch_size"], ptb.task["random_windows"]) == (12, {"max_delta": 40})
    assert (wt2.task["batch_size"], wt2.task["random_windows"]) == (15, {"max_delta": 20})
    kept = {"embedding": 0.1, "output": 0.4, "locked": True}
    assert ptb.model["dropout"] == kept | {"input": 0.4, "hidden": 0.225}
    assert wt2.model["dropout"] == kept | {"input": 0.55, "hidden": 0.2}
    for recipe in (ptb, wt2):
        assert (recipe.task["window"], recipe.task["alpha"], recipe.task["beta"]) == (70, 2.0, 1.0)
        assert recipe.model["head"] == {"name": "mixture", "experts": 15, "dropout": 0.29}
        assert recipe.model["layer"] == {"name": "lstm", "weight_drop": 0.5}
        assert recipe.sparsity == {"name": "selfish", "density": 0.45, "prune_rate": 0.5}
        assert recipe.optimizer["name"] == "snt_asgd"
    assert wt2.published["test_perplexity"] == 63.05


@pytest.mark.parametrize("family", ["selfish/mos-ptb", "selfish/mos-wt2", "selfish/mos-ptb-small"])
@pytest.mark.parametrize("method", ["dense", "static", "set", "rigl", "snfs"])
def test_a_sibling_differs_from_its_base_in_the_method_alone(family, method):
    base, sibling = load_recipe(family).settings(), load_recipe(f"{family}-{method}").settings()
    differing = {key for key in base | sibling if base.get(key) != sibling.get(key)}
    assert differing <= {"name", "sparsity", *DESCRIPTION}
    assert sibling["sparsity"]["name"] == method
