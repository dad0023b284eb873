"""Every member of every registry keeps the contract of its kind, and what keeps none is not taken for a member."""

import inspect

import pytest
import torch
from torch import nn

from sparsernn import contracts
from sparsernn.core.registry import make
from sparsernn.gradients import BOUNDARIES
from sparsernn.models import MODELS, LanguageModel, SequenceModel
from sparsernn.nn import HEADS, LAYERS, TIED_HEADS, Recurrent
from sparsernn.optim import OPTIMIZERS, make_learning_rate
from sparsernn.optim.schedules import SCHEDULES
from sparsernn.report.console import output
from sparsernn.report.progress import make_reporter
from sparsernn.runs.reporter import Audience, Listener
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.tasks import TASKS, Task

PENALTIES = {"iss": {"strength": 0.1}, "l1": {"strength": 0.1}}
SETTINGS = {
    **PENALTIES,
    "together": {"of": [{"name": name, **settings} for name, settings in PENALTIES.items()]},
    "chain": {"of": [{"name": "static", "density": 0.5}, {"name": "iss", "strength": 0.1}]},
    "dense": {},
    "frozen": {},
    "alternating": {"base": 1},
}
PROTOCOLS = [
    contracts.Layer,
    contracts.Cell,
    contracts.Head,
    contracts.Task,
    contracts.Optimizer,
    contracts.Schedule,
    contracts.Sparsifier,
    contracts.Boundary,
]


def promised(protocol):
    """The methods that a contract names."""
    return {
        name
        for name, value in vars(protocol).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }


def assert_kept(member, protocol):
    """The member has all that is promised, under the same names of arguments."""
    assert isinstance(member, protocol)
    for name in promised(protocol):
        wanted = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
        offered = inspect.signature(getattr(member, name)).parameters
        if any(p.kind is p.VAR_POSITIONAL for p in offered.values()):
            continue
        assert list(offered)[: len(wanted)] == wanted, f"{type(member).__name__}.{name}"


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_and_their_cells(name):
    layer = make("layer", LAYERS, name, input_size=10, hidden_size=10)
    assert_kept(layer, contracts.Layer)
    if isinstance(layer, Recurrent):
        assert_kept(layer.cell, contracts.Cell)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_heads(name):
    settings = {"vocabulary_size": 10, "input_size": 4, "embedding_size": 4}
    assert_kept(make("head", HEADS, name, tied=None, **settings), contracts.Head)


@pytest.mark.parametrize("embedding", sorted(TIED_HEADS))
def test_heads_of_one_kind_of_embedding(embedding):
    for name in TIED_HEADS[embedding]:
        model = LanguageModel(10, 4, [4], head=name, embedding=embedding, tied=True)
        assert_kept(model.head, contracts.Head)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_tasks(name):
    """Built ones are held to their contract by tests/runs/test_task_contract.py."""
    made = TASKS[name]
    assert issubclass(made, Task)
    for method in promised(contracts.Task):
        wanted = list(inspect.signature(getattr(contracts.Task, method)).parameters)
        assert list(inspect.signature(getattr(made, method)).parameters)[: len(wanted)] == wanted, method


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models(name):
    made = MODELS[name]
    assert issubclass(made, contracts.Model)
    assert not inspect.isabstract(made)
    assert made.reads in ("words", "vectors", "sequences")


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers(name):
    params = [nn.Parameter(torch.zeros(2))]
    assert_kept(make("optimizer", OPTIMIZERS, {"name": name, "lr": 0.1}, params=params), contracts.Optimizer)


@pytest.mark.parametrize("spec", [0.1, *({"name": name} for name in sorted(SCHEDULES))], ids=str)
def test_learning_rates(spec):
    given = {
        "value": 0.1,
        "start": 0.1,
        "end": 0.01,
        "factor": 0.5,
        "every": 1,
        "divide_by": 2.0,
        "epochs": [1],
    }
    if isinstance(spec, dict):
        known = inspect.signature(SCHEDULES[spec["name"]]).parameters
        spec = spec | {key: value for key, value in given.items() if key in known}
    assert_kept(make_learning_rate(spec, 10), contracts.Schedule)


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_sparsifiers(name):
    model = LanguageModel(10, 4, [4])
    spec = {"name": name, **SETTINGS.get(name, {"density": 0.5})}
    made = make(
        "sparsity", SPARSIFIERS, spec, model=model, optimizer=None, window=5, total_steps=100, epochs=2
    )
    assert_kept(made, contracts.Sparsifier)


@pytest.mark.parametrize("name", sorted(BOUNDARIES))
def test_boundaries(name):
    model = SequenceModel(1, 1, [4])
    spec = {"name": name, **SETTINGS.get(name, {})}
    assert_kept(make("boundary", BOUNDARIES, spec, model=model, seed=1, epochs=4), contracts.Boundary)


def test_reporters():
    for reporter in (make_reporter(output(), "perplexity"), Listener(None), Audience()):
        assert isinstance(reporter, contracts.Reporter)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_lacks_a_method_keeps_no_contract(protocol):
    """All methods but one of them."""
    methods = sorted(promised(protocol))
    others = {name: (lambda self: None) for name in dir(protocol) if not name.startswith("__")}
    others |= dict.fromkeys(protocol.__annotations__) | {"__call__": lambda self: None}
    assert isinstance(type("All", (), others)(), protocol)
    for name in methods:
        less = {other: value for other, value in others.items() if other != name}
        assert not isinstance(type("Less", (), less)(), protocol)
