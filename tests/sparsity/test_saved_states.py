"""States that are loaded into what they are not of, and optimizers with sparsifiers that are copied."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.optim.ema import ema
from sparsernn.optim.nt_asgd import NTASGD
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


def made(method, model=None, optimizer=None, **more):
    model = net() if model is None else model
    if method == "dense":
        return Sparsifier(model)
    if method == "frozen":
        return Frozen(model)
    return sparsify(model, optimizer, method=method, **(SETTINGS[method] | more))


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


# --- copies -----------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "nt_asgd": lambda p: NTASGD(p, lr=0.1, switch_epoch=0),
    "snt_asgd": lambda p: NTASGD(p, lr=0.1, switch_epoch=0, per_weight=True, stop_when_worse=True),
    "ema of sgd": lambda p: ema(p, lr=0.1, of="sgd", decay=0.9),
    "ema of adam": lambda p: ema(p, lr=0.01, warm_up=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda whole: pickle.loads(pickle.dumps(whole)),
    "twice": lambda whole: copy.deepcopy(pickle.loads(pickle.dumps(whole))),
}


def averages(model, optimizer):
    """The weights as they would be evaluated."""
    if not hasattr(optimizer, "averaged"):
        return []
    with optimizer.averaged():
        return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["selfish", "rigl", "l1", None])
def test_a_copy_goes_on_as_the_original_does(method, name, how):
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = sparsify(model, optimizer, method=method, **SETTINGS[method]) if method else None
    train(model, optimizer, 3)
    twin, twin_optimizer, twin_sparsifier = COPIES[how]((model, optimizer, sparsifier))
    train(model, optimizer, 5)
    before = [p.detach().clone() for p in model.parameters()]
    train(twin, twin_optimizer, 5)
    assert all(map(torch.equal, before, model.parameters()))  # the copy is another one
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert all(map(torch.equal, averages(model, optimizer), averages(twin, twin_optimizer)))
    if method:
        assert stray(twin, twin_sparsifier) == 0
        assert str(twin_sparsifier.state_dict()) == str(sparsifier.state_dict())
        assert list(twin_sparsifier.optimizers) == [twin_optimizer]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adam"])
def test_an_optimizer_of_ours_is_copied_with_all_that_it_knows(name, how):
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    twin = COPIES[how](optimizer)
    assert type(twin) is type(optimizer)
    assert str(twin.state_dict()) == str(optimizer.state_dict())
    assert (twin.averaging, twin.exhausted) == (optimizer.averaging, optimizer.exhausted)
    if isinstance(optimizer, NTASGD):
        twin.trigger(3.0)
        assert twin.state_dict()["trigger"]["losses"] == [3.0]
        assert optimizer.state_dict()["trigger"]["losses"] == []
        assert (twin.per_weight, twin.stop_when_worse) == (optimizer.per_weight, optimizer.stop_when_worse)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_without_a_gradient_do_nothing(name):
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    assert all(map(torch.equal, averages(model, optimizer), before))


def test_a_model_is_copied_and_pickled_beside_its_sparsifier():
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = sparsify(model, optimizer, **OFTEN)
    train(model, optimizer, 3)
    count = sparsifier.step_count
    for how in COPIES.values():
        twin = how(model)
        train(twin, torch.optim.Adam(twin.parameters(), lr=0.1))
        assert sparsifier.step_count == count
        assert stray(model, sparsifier) == 0
        assert stray(twin, sparsifier) > 0  # a model alone has no masks


# --- wrapped optimizers -----------------------------------------------------------------------------------


class Holding:
    """A wrapper that is no optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


class Posing(torch.optim.Optimizer):
    """A wrapper that is an optimizer by its class, and was never set up as one, as accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [Holding, Posing, lambda o: Posing(Holding(o)), lambda o: [Holding(o)]])
@pytest.mark.parametrize("method", ["rigl", "l1"])
def test_a_wrapped_optimizer_counts_as_the_one_inside(wrap, method):
    found = []
    for outer in (lambda o: o, wrap):
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        wrapped = outer(optimizer)
        sparsifier = sparsify(model, wrapped, method=method, **SETTINGS[method])
        assert sparsifier.optimizers == (optimizer,)
        train(model, wrapped[0] if isinstance(wrapped, list) else wrapped, 5)
        assert stray(model, sparsifier) == 0
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class Endless:
    """What keeps itself as its optimizer."""

    @property
    def optimizer(self):
        return self


@pytest.mark.parametrize(
    "given",
    [
        3,
        3.5,
        "adam",
        ["adam"],
        [None],
        {"a": 1},
        Endless(),
        Holding(None),
        Posing(None),
        Holding(3),
        nn.Linear(2, 2),
    ],
)
def test_what_holds_no_optimizer_is_one_sentence(given):
    with pytest.raises(InputError, match="must be a torch optimizer") as caught:
        sparsify(net(), given, density=0.3)
    assert "\n" not in str(caught.value)


def test_a_wrapper_beside_its_optimizer_is_one_too_many():
    optimizer = torch.optim.Adam(net().parameters())
    with pytest.raises(InputError, match="given twice"):
        sparsify(net(), [optimizer, Holding(optimizer)], density=0.3)


# --- penalties and what they need -------------------------------------------------------------------------


@pytest.mark.parametrize("method", PENALTIES)
@pytest.mark.parametrize("attach", [True, False])
def test_a_penalty_on_what_the_optimizer_does_not_hold_is_refused(method, attach):
    model = net()
    with pytest.raises(InputError, match="does not hold") as caught:
        made(method, model, optimizer=torch.optim.SGD(net().parameters(), lr=0.1), attach=attach)
    assert "\n" not in str(caught.value)
    part = [p for name, p in model.named_parameters() if name != "rnn.weight_hh_l1"]
    with pytest.raises(InputError, match=r"does not hold 'rnn\.weight_hh_l1'"):
        made(method, model, optimizer=torch.optim.SGD(part, lr=0.1), attach=attach)
    assert made(method, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), attach=attach)


def test_a_penalty_on_part_of_the_weights_needs_their_optimizer_alone():
    model = net()
    optimizer = torch.optim.SGD(model.rnn.parameters(), lr=0.1)
    assert sparsify(model, optimizer, method="l1", strength=0.1, include=["rnn.*"])
    model.rnn.weight_ih_l0.requires_grad_(False)
    trained = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert sparsify(model, trained, method="iss", strength=0.1)


@pytest.mark.parametrize("method", PENALTIES)
def test_a_line_search_returns_the_loss_with_the_penalty(method):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, line_search_fn="strong_wolfe")
    penalty = made(method, model, optimizer=optimizer)
    words = torch.randint(0, 20, (6, 4), generator=torch.Generator().manual_seed(1))
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(words[:-1]).flatten(0, 1), words[1:].flatten())
        loss.backward()
        seen.append(loss.item() + penalty.value())
        return loss

    assert penalty.value() > 0.1
    assert optimizer.step(closure).item() == pytest.approx(seen[0], rel=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", ["l1", "together"])
def test_tensors_of_any_shape_are_shrunk_once_and_cut(method, kind):
    model = nn.Module()
    shapes = {
        "one": torch.tensor(2.0),
        "other": torch.tensor(-2.0),
        "small": torch.tensor(0.5),
        "single": torch.full((1, 1), 2.0),
        "empty": torch.zeros(0, 3),
        "turned": torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]]).t(),
        "strided": torch.ones(4, 6)[:, ::2],
    }
    for name, value in shapes.items():
        model.register_parameter(name, nn.Parameter(value.to(kind)))
    l1 = {"strength": 0.25, "threshold": 0.5}
    given = l1 if method == "l1" else {"of": [{"name": "l1", **l1}]}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    penalty = sparsify(model, optimizer, method=method, **given)
    (0 * sum(p.sum() for p in model.parameters())).backward()  # one zero in memory for all of one number
    optimizer.step()
    found = {name: p.detach().float().flatten().tolist() for name, p in model.named_parameters()}
    assert found == {
        "one": [1.75],
        "other": [-1.75],
        "small": [0.0],
        "single": [1.75],
        "empty": [],
        "turned": [0.75, 0.0, 0.75, 0.0, 0.75, 0.75],
        "strided": [0.75] * 12,
    }
    assert penalty.value() == 0.25 * (3 * 1.75 + 16 * 0.75)
    assert penalty.summary()["masked_active"] == 19
