"""States that are loaded into what they are not of, and optimizers with sparsifiers that are copied."""

import copy

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.sparsity import DEFAULTS
from sparsernn.sparsity.frozen_zeros import Frozen
from sparsernn.sparsity.sparsifier import Chain, Sparsifier

OFTEN = {"density": 0.3, "total_steps": 40, "update": {"every": 2, "unit": "step"}}
PENALTIES = {
    "l1": {"strength": 1e-3},
    "iss": {"strength": 1e-3},
    "together": {
        "of": [{"name": "l1", "strength": 1e-3}, {"name": "iss", "strength": 1e-3, "freeze_dead": True}]
    },
}
SETTINGS = {**dict.fromkeys(DEFAULTS, OFTEN), **PENALTIES}
SETTINGS["static"] = {"density": 0.3, "total_steps": 40}
MOMENTUM = {"snfs"}


class Net(nn.Module):
    """An embedding, two recurrent layers, a read-out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.rnn = nn.LSTM(16, 24, 2)
        self.head = nn.Linear(24, 20)

    def forward(self, words):
        return self.head(self.rnn(self.embedding(words))[0])


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def train(model, optimizer, steps=1):
    words = torch.randint(0, 20, (6, 4), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words[:-1]).flatten(0, 1), words[1:].flatten()).backward()
        optimizer.step()


def stray(model, sparsifier):
    named = dict(model.named_parameters())
    return sum(int((named[n] != 0)[~m].sum()) for n, m in sparsifier.masks().items())


def made(method, model=None, **more):
    model = net() if model is None else model
    if method == "dense":
        return Sparsifier(model)
    if method == "frozen":
        return Frozen(model)
    return sparsify(model, method=method, **(SETTINGS[method] | more))


# --- states of others -------------------------------------------------------------------------------------

KINDS = ["dense", "frozen", "selfish", "rigl", "snfs", "dsr", "l1", "iss", "together"]


def family(method):
    """Methods of one family understand each other's states: the masks move over."""
    if method in DEFAULTS:
        return "means" if method in MOMENTUM else "masks"
    return "nothing" if method in ("dense", "l1", "iss") else method


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("saved", KINDS)
def test_the_state_of_another_method_is_taken_whole_or_refused(saved, into):
    state = made(saved).state_dict()
    sparsifier = made(into, net(1))
    before = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(sparsifier.model.state_dict())
    if family(saved) == family(into):
        sparsifier.load_state_dict(state)
        if family(into) == "masks":
            found = sparsifier.masks()
            assert all(torch.equal(mask, found[name]) for name, mask in state["masks"].items())
        return
    with pytest.raises(InputError, match="of another sparsifier") as caught:
        sparsifier.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert str(before) == str((sparsifier.state_dict(), sparsifier.model.state_dict()))


def at(*way, value=None, drop=False):
    def change(state):
        node = state
        for key in way[:-1]:
            node = node[key]
        if drop:
            del node[way[-1]]
        else:
            node[way[-1]] = value(node[way[-1]]) if callable(value) else value

    return change


HEAD = "head.weight"
WRONG = {
    "no masks": at("masks", drop=True),
    "masks of text": at("masks", value="all"),
    "a mask less": at("masks", HEAD, drop=True),
    "a mask of one row": at("masks", HEAD, value=lambda m: m[:1]),
    "a mask of one column": at("masks", HEAD, value=lambda m: m[:, :1]),
    "a mask that is turned": at("masks", HEAD, value=lambda m: m.t()),
    "a mask of numbers": at("masks", HEAD, value=lambda m: m.float()),
    "a mask of lists": at("masks", HEAD, value=lambda m: m.tolist()),
    "no history": at("ever", drop=True),
    "a short history": at("ever", HEAD, value=lambda m: m[:1]),
    "a history less": at("ever", HEAD, drop=True),
    "a mean of one row": at("momentum", HEAD, value=lambda m: m[:1]),
    "a mean less": at("momentum", HEAD, drop=True),
    "no means": at("momentum", value={}),
    "a gradient of one row": at("gradients", HEAD, value=torch.zeros(1, 24)),
    "gradients of text": at("gradients", value="none"),
    "a short generator": at("generator", value=lambda g: g[:9]),
    "no generator": at("generator", value=3),
    "no counts": at("counts", value={}),
    "a count of text": at("counts", "step", value="3"),
    "a count that is true": at("counts", "epoch", value=True),
    "no threshold": at("tau", value=None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_state_is_one_sentence_and_nothing_is_taken_from_it(name):
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = sparsify(model, optimizer, method="snfs", **OFTEN)
    train(model, optimizer, 3)
    state = copy.deepcopy(sparsifier.state_dict())
    if name.startswith("a gradient"):
        state["gradients"] = dict(state["gradients"])
        state["gradients"][HEAD] = None
    WRONG[name](state)
    target = made("snfs", net(1))
    before = str(target.state_dict())
    with pytest.raises(InputError) as caught:
        target.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert str(target.state_dict()) == before


@pytest.mark.parametrize("state", [None, 3, "state", [], [{}]])
@pytest.mark.parametrize("method", ["dense", "frozen", "selfish", "l1", "iss", "together"])
def test_what_is_no_state_is_one_sentence(method, state):
    with pytest.raises(InputError, match="must be what state_dict") as caught:
        made(method).load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_a_chain_of_another_length_is_refused():
    for many in (0, 1, 3):
        state = {str(k): {} for k in range(many)}
        with pytest.raises(InputError, match="of another sparsifier"):
            Chain([Sparsifier(), Sparsifier()]).load_state_dict(state)


@pytest.mark.parametrize("method", [name for name in KINDS if name != "frozen"])
def test_the_own_state_is_taken(method):
    state = made(method).state_dict()
    target = made(method, net(1))
    target.load_state_dict(state)
    assert str(target.state_dict()) == str(state)
