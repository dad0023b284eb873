"""The recipes of the published runs say what their commands say, option by option."""

import argparse

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.gradients import BOUNDARIES
from sparsernn.gradients.state_vector import Parts
from sparsernn.models import LanguageModel
from sparsernn.optim import make_learning_rate
from sparsernn.runs.recipe import list_recipes, load_recipe

NAMES = [f"alternate/{c}-{m}" for c in ("ptb", "wt2") for m in ("dni", "dni-rb160", "dni-rb5")]
NAMES += [f"alternate/{c}-alternating-{r}" for c in ("ptb", "wt2") for r in ("rb160", "rb5")]
CORPORA = {"data/penn": "ptb", "data/wikitext-2": "wikitext-2"}
CONTROLS = {"bptt": "dni", "bptt-rb160": "dni-rb160", "bptt-rb5": "dni-rb5"}


def options(command):
    """The published command line, with the published defaults."""
    parser = argparse.ArgumentParser()
    words = {"data": "", "model": "", "optimizer": "", "sgtype": "", "expname": ""}
    numbers = {"nhid": 0, "nlayers": 0, "emsize": 400, "batch_size": 0, "bptt": 0, "epochs": 0, "seed": 0}
    numbers |= {"sg_hidden_num": 0, "sg_nlayers": 0}
    rates = {"lr": 0.0, "wdrop": 0.5, "dropout": 0.4, "dropouti": 0.65, "dropouth": 0.3, "dropoute": 0.1}
    rates |= {"clip": 0.25, "alpha": 2.0, "beta": 1.0, "wdecay": 1.2e-6, "sg_dropout": 0.0}
    for kind, given in ((str, words), (int, numbers), (float, rates)):
        for name, default in given.items():
            parser.add_argument(f"--{name}", type=kind, default=default)
    for name in ("whenswitch", "restart_base"):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=[])
    for name in ("use_sg", "mixture", "restart_lr"):
        parser.add_argument(f"--{name}", action="store_true")
    start, _, rest = command.partition("main.py ")
    assert start.startswith("python")
    return parser.parse_args(rest.split())


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_its_command(name):
    recipe = load_recipe(name)
    given = options(recipe.command)
    task, model, boundary = recipe.task, recipe.model, recipe.boundary
    assert task["corpus"]["name"] == CORPORA[given.data]
    assert (task["batch_size"], task["window"]) == (given.batch_size, given.bptt)
    assert (task["alpha"], task["beta"]) == (given.alpha, given.beta)
    assert task["random_windows"] == {"max_delta": None}
    assert model["embedding_size"] == given.emsize
    assert model["hidden_sizes"] == [given.nhid] * (given.nlayers - 1) + [given.emsize]
    assert [layer.get("window", 1) for layer in model["layer"]] == [2, 1, 1, 1]
    assert {layer["weight_drop"] for layer in model["layer"]} == {given.wdrop}
    assert model["tied"] is True
    dropout = {"embedding": given.dropoute, "input": given.dropouti, "hidden": given.dropouth}
    assert model["dropout"] == {**dropout, "output": given.dropout, "locked": True}
    assert (recipe.seed, recipe.epochs, recipe.clip) == (given.seed, given.epochs, given.clip)
    assert recipe.optimizer["name"] == given.optimizer
    assert recipe.optimizer["weight_decay"] == boundary["weight_decay"] == given.wdecay
    synthesizer = boundary["synthesizer"]
    assert (synthesizer["hidden"], synthesizer["layers"]) == (given.sg_hidden_num, given.sg_nlayers)
    assert synthesizer["dropout"] == given.sg_dropout
    assert synthesizer["cell"] == {"name": given.sgtype.lower(), "zoneout": 0.1}
    assert (synthesizer["axis"], synthesizer["noise"], boundary["gamma"]) == ("flat", 0.5, 0.1)
    assert given.use_sg
    assert boundary["start"] == "real"
    assert boundary.get("switch_epochs", []) == given.whenswitch
    assert (boundary["name"] == "alternating") == given.mixture
    base = given.restart_base[0] if len(given.restart_base) == 1 else given.restart_base
    assert recipe.optimizer["lr"] == rate(given, base)
    if given.mixture:
        assert boundary["base"] == base


def rate(given, base):
    return {"name": "restarts", "start": given.lr, "base": base} if given.restart_lr else given.lr


def test_all_ten_commands_are_there():
    shipped = [name for name in list_recipes() if name.startswith("alternate/")]
    commands = {name: load_recipe(name).command for name in shipped}
    assert sorted(name for name, command in commands.items() if command) == sorted(NAMES)
    assert len({options(commands[name]).expname for name in NAMES}) == 10


@pytest.mark.parametrize("corpus", ["ptb", "wt2"])
@pytest.mark.parametrize("control", CONTROLS)
def test_controls_differ_from_the_published_run_in_the_boundary_alone(corpus, control):
    ours, theirs = (load_recipe(f"alternate/{corpus}-{name}") for name in (control, CONTROLS[control]))
    assert ours.boundary == {"name": "truncate"}
    for part in ("task", "model", "optimizer", "sparsity", "seed", "epochs", "clip"):
        assert getattr(ours, part) == getattr(theirs, part)


@pytest.mark.parametrize("name", NAMES)
def test_phases_and_restarts_lie_at_the_same_epochs_where_the_two_alternate(name):
    recipe = load_recipe(name)
    model = LanguageModel(5, 2, [2])
    boundary = make("boundary", BOUNDARIES, recipe.boundary, model=model, seed=1, epochs=recipe.epochs)
    firsts = {row["first"] for row in boundary.phases()}
    restarts = {first for first, _ in make_learning_rate(recipe.optimizer["lr"], 1).cycles(recipe.epochs)}
    if recipe.boundary["name"] == "alternating":
        assert firsts | {1} == restarts | set(recipe.boundary.get("switch_epochs", []))
    else:
        assert firsts == {1, 2}


def test_published_state_has_5050_numbers_and_400_of_a_previous_input():
    layers = [{"name": "qrnn", "window": 2}, "qrnn", "qrnn", "qrnn"]
    with torch.device("meta"):
        model = LanguageModel(10, 400, [1550, 1550, 1550, 400], layer=layers, tied=True)
    assert Parts(model, [0, 2, 3, 4]).width == 5050
    assert Parts(model).width == 5450
