"""The recipes of intrinsic sparse structures against the settings of the published code, on the scale of its loss."""

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.data import CORPORA
from sparsernn.models import MODELS
from sparsernn.optim import make_learning_rate
from sparsernn.runs.recipe import load_recipe
from sparsernn.sparsity import group_lasso
from sparsernn.sparsity.penalties.penalty import per_token

WINDOW = 35
# recipe -> initial bound, clip, window, dropout, epochs, learning rates of epochs counted from 1
TABLE = {
    "iss/lstm-ptb": (0.04, 10, 35, 0.4, 55, {1: 1.0, 18: 1.0, 19: 0.1, 36: 0.1, 37: 0.01, 55: 0.001}),
    "iss/lstm-ptb-l1": (0.04, 10, 35, 0.35, 55, {18: 1.0, 19: 0.1, 55: 0.001}),
    "iss/lstm-ptb-direct": (0.04, 10, 35, 0.45, 55, {14: 1.0, 15: 1 / 1.15, 55: 1.15**-41}),
    "iss/lstm-ptb-dense-small": (0.1, 5, 20, 0.0, 13, {4: 1.0, 5: 0.5, 13: 0.5**9}),
    "iss/lstm-ptb-dense-medium": (0.05, 5, 35, 0.5, 39, {6: 1.0, 7: 0.8, 39: 0.8**33}),
    "iss/lstm-ptb-dense-large": (0.04, 10, 35, 0.65, 55, {14: 1.0, 15: 1 / 1.15, 55: 1.15**-41}),
}
SIZES = {"small": [200, 200], "medium": [650, 650], "large": [1500, 1500]}


@pytest.mark.parametrize("name", TABLE)
def test_stacked_lstms_are_those_of_the_published_table(name):
    bound, clip, window, dropped, epochs, rates = TABLE[name]
    recipe = load_recipe(name)
    task, model = recipe.task, recipe.model
    assert (task["batch_size"], task["window"], recipe.epochs) == (20, window, epochs)
    assert recipe.clip == pytest.approx(clip / window)
    assert (model["init"], model["tied"], model["layer"]["init"]) == (bound, False, "no_bias")
    assert {model["dropout"][key] for key in ("input", "hidden", "output")} == {dropped}
    assert (model["dropout"]["embedding"], model["dropout"]["locked"]) == (0.0, False)
    assert "weight_decay" not in recipe.optimizer
    found = schedule(recipe, epochs)
    assert {e: found[e - 1] / window for e in rates} == pytest.approx(rates)
    size = SIZES.get(name.rpartition("-")[2], [1500, 1500])
    assert model["embedding_size"] == size[0]
    assert model["hidden_sizes"] == ([373, 315] if name.endswith("direct") else size)


def schedule(recipe, epochs):
    rates = make_learning_rate(recipe.optimizer["lr"], steps=10)
    found = []
    for _ in range(epochs):
        found.append(rates(0))
        rates.observe(1.0)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "strength", "threshold"),
    [
        ("iss/lstm-ptb", "iss", 0.00245, 1e-4),
        ("iss/lstm-ptb-0.003", "iss", 0.003, 1e-4),
        ("iss/lstm-ptb-rows-and-columns", "iss", 0.003, 1e-4),
        ("iss/lstm-ptb-l1", "l1", 1.1e-4, 2.2e-4),
        ("iss/rhn-ptb", "iss", 0.005, 4e-4),
        ("iss/rhn-ptb-0.004", "iss", 0.004, 4e-4),
        ("iss/rhn-ptb-0.006", "iss", 0.006, 4e-4),
        ("iss/rhn-ptb-0.007", "iss", 0.007, 4e-4),
        ("iss/rhn-ptb-1000", "iss", 0.005, 4e-4),
    ],
)
def test_strengths_belong_to_a_loss_summed_over_the_window(name, kind, strength, threshold):
    recipe = load_recipe(name)
    assert recipe.sparsity["name"] == kind
    settings = {key: value for key, value in recipe.sparsity.items() if key != "name"}
    assert (settings["strength"], settings["lambda_scale"]) == (strength, "per_sequence")
    assert per_token(strength, settings["lambda_scale"], recipe.task["window"]) == strength / WINDOW
    if kind == "iss":
        model = make("model", MODELS, small(recipe), vocabulary_size=5)
        settings.pop("threshold", None)
        penalty = group_lasso(model, **settings, threshold=recipe.sparsity.get("threshold"), window=WINDOW)
        assert penalty.settings.threshold == threshold
        assert not penalty.settings.threshold_all
    else:
        assert settings["exclude"] == ["embedding.weight"]
        assert max(1e-4, 2 * strength) == threshold


def small(recipe):
    sizes = {"embedding_size": 4, "hidden_sizes": [4] * len(recipe.model["hidden_sizes"])}
    return {**recipe.model, **sizes}


@pytest.mark.parametrize(
    ("name", "width", "drops"),
    [
        ("iss/rhn-ptb-dense", 830, (0.25, 0.75, 0.25, 0.75)),
        ("iss/rhn-ptb", 830, tuple(0.6 * rate for rate in (0.25, 0.75, 0.25, 0.75))),
        ("iss/rhn-ptb-1000", 1000, (0.25, 0.75, 0.25, 0.75)),
    ],
)
def test_highway_networks_are_the_published_ones(name, width, drops):
    recipe = load_recipe(name)
    model, dropped = recipe.model, recipe.model["dropout"]
    own = (dropped["embedding"], dropped["input"], model["layer"]["state_dropout"], dropped["output"])
    assert own == pytest.approx(drops)
    assert (model["embedding_size"], model["hidden_sizes"], model["tied"]) == (width, [width], True)
    assert (model["layer"]["depth"], model["layer"]["transform_bias"], model["init"]) == (10, -2.0, 0.04)
    assert recipe.clip == pytest.approx(10 / WINDOW)
    assert recipe.optimizer["weight_decay"] == pytest.approx(1e-7 / WINDOW)
    found = [rate / WINDOW for rate in schedule(recipe, 500)]
    assert found == pytest.approx([0.2 / 1.02 ** max(i - 20 + 1, 0) for i in range(500)])


@pytest.mark.parametrize(
    ("name", "valid", "test"),
    [
        ("iss/lstm-ptb-dense-small", 121.39, 115.91),
        ("iss/lstm-ptb-dense-medium", 86.16, 82.07),
        ("iss/lstm-ptb-dense-large", 82.62, 78.29),
        ("iss/rhn-ptb-dense", 67.9, 65.4),
        ("iss/rhn-ptb-0.004", 67.5, 65.0),
        ("iss/rhn-ptb", 68.1, 65.4),
        ("iss/rhn-ptb-0.006", 70.3, 67.7),
        ("iss/rhn-ptb-0.007", 74.5, 71.2),
    ],
)
def test_published_perplexities(name, valid, test):
    published = load_recipe(name).published
    assert (published["valid_perplexity"], published["test_perplexity"]) == (valid, test)


def test_bidaf_recipes():
    """Adam at 1e-3 in batches of 60 with group lasso of 1e-3, or Adadelta at 0.5 for 12 epochs; averages of 0.999."""
    dense, iss, first = (load_recipe(f"iss/bidaf-squad{end}") for end in ("", "-iss", "-adadelta"))
    assert {r.task["batch_size"] for r in (dense, iss, first)} == {60}
    assert {r.optimizer["decay"] for r in (dense, iss, first)} == {0.999}
    assert (dense.optimizer["of"], dense.optimizer["lr"], dense.clip) == ("adam", 1e-3, None)
    assert iss.sparsity == {"name": "iss", "strength": 1e-3, "threshold": 4e-4}
    assert (dense.model["dropout"]["lstm"], iss.model["dropout"]["lstm"]) == (0.2, 0.1)
    assert (first.optimizer["of"]["name"], first.optimizer["lr"], first.epochs) == ("adadelta", 0.5, 12)
    assert (first.published["test_em"], first.published["test_f1"]) == (0.677, 0.773)
    optimizer = make_optimizer(first, torch.nn.Linear(2, 2).parameters())
    assert (optimizer.defaults["rho"], optimizer.defaults["eps"]) == (0.95, 1e-8)
    assert "squad" in CORPORA


def make_optimizer(recipe, params):
    from sparsernn.optim import OPTIMIZERS

    return make("optimizer", OPTIMIZERS, recipe.optimizer, params=params)
