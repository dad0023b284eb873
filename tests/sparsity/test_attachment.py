"""The engine in somebody else's loop: closures, scalers, several optimizers, copies, computed weights."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.first_masks import none_empty
from sparsernn.sparsity.optimizer_state import beginnings

OFTEN = {"update": {"every": 2, "unit": "step"}}
WORDS = torch.randint(0, 20, (6, 4), generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """An embedding, two recurrent layers, a read-out."""

    def __init__(self, sparse=False):
        super().__init__()
        self.embedding = nn.Embedding(20, 16, sparse=sparse)
        self.rnn = nn.LSTM(16, 24, 2)
        self.head = nn.Linear(24, 20)

    def forward(self, words):
        return self.head(self.rnn(self.embedding(words))[0])


def net(**settings):
    torch.manual_seed(0)
    return Net(**settings)


def loss_of(model):
    return nn.functional.cross_entropy(model(WORDS[:-1]).flatten(0, 1), WORDS[1:].flatten())


def train(model, *optimizers, steps=1, scale=1.0):
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (scale * loss_of(model)).backward()
        for optimizer in optimizers:
            optimizer.step()


def stray(model, sparsifier):
    named = dict(model.named_parameters())
    return sum(int((named[n] != 0)[~m].sum()) for n, m in sparsifier.masks().items())


# --- closures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["none", "argument", "keyword"])
@pytest.mark.parametrize("penalty", ["l1", "iss", "together"])
def test_a_penalty_acts_the_same_with_a_closure(how, penalty):
    settings = (
        {"strength": 0.01, "threshold": 0}
        if penalty != "together"
        else {"of": [{"name": "l1", "strength": 0.01}]}
    )

    def moved(how):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsify(model, optimizer, method=penalty, **settings)
        before = model.rnn.weight_hh_l0.detach().clone()

        def closure():
            optimizer.zero_grad()
            loss = 0 * loss_of(model)
            loss.backward()
            return loss

        for _ in range(3):
            if how == "none":
                closure()
                optimizer.step()
            else:
                optimizer.step(closure) if how == "argument" else optimizer.step(closure=closure)
        return float((model.rnn.weight_hh_l0.detach() - before).abs().sum())

    assert moved(how) == pytest.approx(moved("none"), rel=1e-6)
    if penalty == "l1":
        assert moved(how) == pytest.approx(6.858, rel=1e-3)


def test_a_closure_that_clips_adds_the_penalty_once():
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparsifier = sparsify(model, optimizer, method="l1", strength=0.5, threshold=0)
    before = model.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = 0 * model(torch.ones(1, 3)).sum()
        loss.backward()
        sparsifier.after_backward()
        return loss

    optimizer.step(closure)
    assert (model.weight - before).abs().detach().flatten().tolist() == pytest.approx([0.5] * 3)


def test_a_line_search_compares_losses_with_the_penalty():
    """min (w - 3)^2 + |w| is at 2.5, which L-BFGS only finds if loss and gradient belong together."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1, line_search_fn="strong_wolfe")
    sparsify(model, optimizer, method="l1", strength=1.0, threshold=0)

    def closure():
        optimizer.zero_grad()
        loss = (model.weight - 3).square().sum()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert model.weight.item() == pytest.approx(2.5, abs=1e-4)


def test_masks_hold_under_a_line_search():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, line_search_fn="strong_wolfe")
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=50)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert stray(model, sparsifier) == 0
    assert sparsifier.step_count == 3


# --- gradient scalers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["selfish", "rigl", "snfs", "l1"])
def test_steps_that_a_scaler_skips_are_not_counted(fused, method):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    settings = {"strength": 1e-3} if method == "l1" else {"density": 0.3, "total_steps": 1000}
    sparsifier = sparsify(model, optimizer, method=method, **settings)
    scaler = torch.amp.GradScaler("cpu")
    for step in range(10):
        optimizer.zero_grad()
        scaler.scale(loss_of(model) * (math.inf if step in (3, 6) else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    if method != "l1":
        assert sparsifier.step_count == 8
        assert all(bool(torch.isfinite(v).all()) for v in sparsifier.state_dict()["momentum"].values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_penalty_is_scaled_as_the_gradients_are(fused, unscale):
    torch.manual_seed(0)
    model = nn.LSTM(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    sparsify(model, optimizer, method="l1", strength=0.01, threshold=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    before = model.weight_hh_l0.detach().clone()
    scaler.scale(0 * model(torch.ones(2, 1, 8))[0].sum()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert float((model.weight_hh_l0.detach() - before).abs().max()) == pytest.approx(1e-3, rel=1e-4)


def test_running_means_see_gradients_without_their_scale():
    means = []
    for fused in (False, True):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        sparsifier = sparsify(model, optimizer, method="snfs", density=0.3, total_steps=1000)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        means.append(sparsifier.state_dict()["momentum"]["head.weight"])
    torch.testing.assert_close(means[0], means[1], rtol=1e-4, atol=1e-9)


# --- optimizers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rigl", "snfs", "l1"])
def test_several_optimizers_share_a_model(method):
    model = net(sparse=True)
    dense = [p for n, p in model.named_parameters() if n != "embedding.weight"]
    first, second = (
        torch.optim.Adam(dense, lr=0.01),
        torch.optim.SparseAdam([model.embedding.weight], lr=0.01),
    )
    settings = {"density": 0.3, "total_steps": 100, "update": {"every": 2, "unit": "step"}}
    if method == "l1":
        settings = {"strength": 1e-2, "include": ["rnn.*"]}
    sparsifier = sparsify(model, [first, second], method=method, **settings)
    for _ in range(5):
        first.zero_grad()
        second.zero_grad()
        loss_of(model).backward()
        second.step()
        first.step()
        second.step()
    assert stray(model, sparsifier) == 0
    if method != "l1":
        assert sparsifier.step_count == 5
        assert sparsifier.summary()["stray"] == 0


def test_a_penalty_is_added_once_for_all_optimizers():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=1.0) for layer in model]
    sparsify(model, optimizers, method="l1", strength=0.25, threshold=0)
    for _ in range(2):
        before = [p.detach().clone() for p in model.parameters()]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(model.parameters(), before, strict=True):
            assert (p - q).abs().detach().flatten().tolist() == pytest.approx([0.25] * 4)


def test_only_part_of_the_optimizers_is_refused():
    model = net(sparse=True)
    dense = [p for n, p in model.named_parameters() if n != "embedding.weight"]
    with pytest.raises(InputError, match=r"\(Adam\) does not hold 'embedding.weight'"):
        sparsify(model, torch.optim.Adam(dense), method="rigl", density=0.3, total_steps=1000)
    sparsify(model, torch.optim.Adam(dense), density=0.3, total_steps=1000, exclude=["embedding.weight"])


@pytest.mark.parametrize("given", ["Adam", ["Adam"], 3])
def test_what_is_no_optimizer_is_one_sentence(given):
    with pytest.raises((InputError, TypeError)) as caught:
        sparsify(net(), given, density=0.3)
    assert "\n" not in str(caught.value)


def test_an_optimizer_of_another_model_is_refused_before_anything_changes():
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="does not hold"):
        sparsify(model, torch.optim.Adam(net().parameters()), density=0.2, total_steps=1000)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_assigning_an_optimizer_moves_the_hooks():
    model = net()
    old = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = sparsify(model, old, density=0.2, total_steps=1000)
    new = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.optimizer = new
    train(model, new, steps=3)
    assert (stray(model, sparsifier), sparsifier.step_count) == (0, 3)
    train(model, old)
    assert sparsifier.step_count == 3
    with pytest.raises(InputError, match="does not hold"):
        sparsifier.optimizer = torch.optim.Adam(net().parameters())
    assert sparsifier.optimizer is new


def test_detach_and_attach():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = sparsify(model, optimizer, density=0.2, total_steps=1000)
    with pytest.raises(InputError, match="attached already"):
        sparsifier.attach()
    sparsifier.detach()
    train(model, optimizer)
    assert sparsifier.step_count == 0
    found = sparsifier.summary()
    assert found["stray"] == stray(model, sparsifier) > 0
    assert found["masked_density"] > 0.9
    sparsifier.attach()
    train(model, optimizer)
    assert sparsifier.summary()["stray"] == 0
    with pytest.raises(InputError, match="without an optimizer"):
        sparsify(net(), density=0.2).attach()


def test_a_second_sparsifier_for_the_same_weights_is_refused():
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    first = sparsify(model, optimizer, density=0.2, total_steps=1000, include=["rnn.*"])
    with pytest.raises(InputError, match="detach"):
        sparsify(model, optimizer, method="rigl", density=0.2, total_steps=1000)
    sparsify(model, optimizer, density=0.2, total_steps=1000, include=["head.weight"])
    sparsify(model, optimizer, method="l1", strength=1e-4)
    with pytest.raises(InputError, match="detach"):
        sparsify(model, optimizer, method="l1", strength=1e-4)
    first.detach()
    sparsify(model, optimizer, density=0.2, total_steps=1000, include=["rnn.*"])


# --- copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["selfish", "rigl", "snfs", "l1"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_model_optimizer_and_sparsifier_are_copied_together(method, how):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    settings = (
        {"strength": 1e-2}
        if method == "l1"
        else {"density": 0.2, "total_steps": 40, "update": {"every": 2, "unit": "step"}}
    )
    sparsifier = sparsify(model, optimizer, method=method, **settings)
    train(model, optimizer, steps=3)
    whole = (model, optimizer, sparsifier)
    twin, twin_optimizer, twin_sparsifier = (
        copy.deepcopy(whole) if how == "deepcopy" else pickle.loads(pickle.dumps(whole))
    )
    train(model, optimizer, steps=4)
    train(twin, twin_optimizer, steps=4)
    assert stray(twin, twin_sparsifier) == 0
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert getattr(twin_sparsifier, "step_count", 0) == getattr(sparsifier, "step_count", 0)


# --- computed weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (parametrizations.weight_norm, "_WeightNorm"),
        (parametrizations.orthogonal, "_Orthogonal"),
        (weight_norm, "weight norm"),
    ],
)
def test_a_weight_whose_zeros_are_lost_is_refused(wrap, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(wrap(nn.Linear(24, 24)), nn.Linear(24, 3))
    with pytest.raises(InputError, match=f"'0.weight' is computed by {said}") as caught:
        sparsify(model, density=0.3, total_steps=1000)
    assert "\n" not in str(caught.value)
    sparsifier = sparsify(model, density=0.3, total_steps=1000, include=["1.*"])
    assert list(sparsifier.masks()) == ["1.weight"]


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.spectral_norm, lambda layer: prune.random_unstructured(layer, "weight", 0.2)],
    ids=["spectral_norm", "prune"],
)
def test_zeros_pass_where_they_can(wrap):
    torch.manual_seed(0)
    model = wrap(nn.Linear(24, 24))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=1000)
    (mask,) = sparsifier.masks().values()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 24)).square().sum().backward()
        optimizer.step()
    model(torch.ones(2, 24))
    assert not model.weight[~mask].any()
    assert bool(torch.isfinite(model.weight).all())


def test_group_lasso_on_a_pruned_layer_is_refused():
    model = net()
    prune.random_unstructured(model.rnn, "weight_hh_l0", 0.2)
    with pytest.raises(InputError, match="computed from other tensors"):
        sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method="iss", strength=0.1)


# --- fresh state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "right"),
    [
        (torch.optim.Rprop, {"lr": 0.25}, {"prev": 0.0, "step_size": 0.25}),
        (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}, {"sum": 0.5}),
        (torch.optim.Adam, {"lr": 0.1}, {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
        (torch.optim.Adam, {"lr": 0.1, "fused": True}, {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum_buffer": 0.0}),
        (torch.optim.RMSprop, {"lr": 0.1}, {"square_avg": 0.0}),
    ],
)
def test_what_a_state_begins_with_is_asked_of_the_optimizer(kind, settings, right):
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = kind([weight], **settings)
    assert beginnings(optimizer, weight) == right
    for group in optimizer.param_groups:
        group["lr"] = 0.125
    if kind is torch.optim.Rprop:
        assert beginnings(optimizer, weight)["step_size"] == 0.125


def test_an_optimizer_that_cannot_be_asked_begins_with_nothing():
    class Own(torch.optim.SGD):
        def __init__(self, params, secret):
            super().__init__(params, lr=0.1)

    weight = nn.Parameter(torch.ones(2))
    assert beginnings(Own([weight], 3), weight) == {}


@pytest.mark.parametrize(
    "kind", [torch.optim.Rprop, torch.optim.Adagrad, torch.optim.Adam, torch.optim.RMSprop]
)
def test_grown_weights_move(kind):
    model = net()
    optimizer = kind(model.parameters(), lr=0.01)
    sparsifier = sparsify(
        model, optimizer, method="rigl", density=0.3, total_steps=100, update={"every": 5, "unit": "step"}
    )
    train(model, optimizer, steps=4)
    old = {name: mask.clone() for name, mask in sparsifier.masks().items()}
    train(model, optimizer, steps=6)
    named = dict(model.named_parameters())
    grown = torch.cat([named[n].detach()[m & ~old[n]].abs() for n, m in sparsifier.masks().items()])
    assert float(grown.max()) > 1e-3


# --- odd tensors, odd states ------------------------------------------------------------------------------


def test_penalties_take_tensors_of_any_shape():
    model = nn.Module()
    model.scalar = nn.Parameter(torch.tensor(2.0))
    model.empty = nn.Parameter(torch.zeros(0, 3))
    model.turned = nn.Parameter(torch.ones(3, 2).t())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparsify(model, optimizer, method="l1", strength=0.25, threshold=0)
    (0 * (model.scalar + model.turned.sum() + model.empty.sum())).backward()
    optimizer.step()
    assert model.scalar.item() == 1.75
    assert model.turned.detach().flatten().tolist() == [0.75] * 6


def test_an_empty_tensor_carries_no_mask():
    model = nn.Module()
    model.empty, model.weight = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(4, 4))
    assert list(sparsify(model, density=0.5, total_steps=1000).masks()) == ["weight"]


def test_running_means_follow_the_model_to_another_type():
    model = net()
    sparsifier = sparsify(
        model, density=0.3, method="snfs", total_steps=20, update={"every": 2, "unit": "step"}
    )
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        train(model, optimizer)
        sparsifier.step()
    assert stray(model, sparsifier) == 0


@pytest.mark.parametrize("saved", ["l1", "selfish"])
def test_the_state_of_another_method_is_one_sentence(saved):
    settings = {"strength": 1e-3} if saved == "l1" else {"density": 0.3, "total_steps": 1000}
    state = sparsify(net(), method=saved, **settings).state_dict()
    with pytest.raises(InputError, match="of another sparsifier") as caught:
        sparsify(net(), method="snfs", density=0.3, total_steps=1000).load_state_dict(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("density", [0.02, 0.3])
@pytest.mark.parametrize("init", ["uniform", "erdos_renyi"])
def test_no_tensor_is_left_without_a_weight(density, init):
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 30), nn.Linear(30, 30))
    sparsifier = sparsify(model, density=density, init=init, total_steps=1000)
    assert all(bool(mask.any()) for mask in sparsifier.masks().values())
    assert sparsifier.summary()["masked_active"] == round(
        density * sum(m.numel() for m in sparsifier.masks().values())
    )


def test_the_largest_tensor_spares_what_an_empty_one_needs():
    assert none_empty([0, 0, 7, 3]) == [1, 1, 5, 3]
    assert none_empty([0, 1]) == [1, 1]


# --- what never happens is said ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "rigl", "density": 0.3, "total_steps": 40},
            "every 100 steps, and none falls into a run of 40",
        ),
        ({"density": 0.3, "total_steps": 100, "update": {"every": 200, "unit": "step"}}, "every 200 steps"),
        ({"method": "l1", "strength": 0.0, "threshold": 0}, "no weight is ever shrunk"),
        ({"method": "iss", "strength": 0.0, "threshold": 0}, "no weight is ever shrunk"),
    ],
)
def test_a_plan_in_which_nothing_happens_says_so(settings, said):
    with pytest.warns(UserWarning, match=said):
        sparsify(net(), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"density": 0.3, "total_steps": 1000},
        {"method": "rigl", "density": 0.3, "total_steps": 400},
        {"method": "static", "density": 0.3, "total_steps": 40},
        {"method": "l1", "strength": 0.1},
    ],
)
def test_a_plan_in_which_something_happens_says_nothing(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsify(net(), **settings)


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "bias_hh_l1"])
def test_the_proximal_map_on_a_frozen_weight_is_refused(frozen):
    model = net()
    getattr(model.rnn, frozen).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(InputError, match=f"'{frozen}' of .* is frozen"):
        sparsify(model, optimizer, method="iss", strength=0.1, mode="prox")
    sparsify(model, optimizer, method="iss", strength=0.1)


# --- other people's machinery -----------------------------------------------------------------------------


def test_mixed_precision_by_autocast():
    """Without oneDNN, whose LSTM in bfloat16 some processors lack."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = sparsify(
        model, optimizer, method="rigl", density=0.3, total_steps=40, update={"every": 2, "unit": "step"}
    )
    for _ in range(5):
        optimizer.zero_grad()
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
    assert (stray(model, sparsifier), len(sparsifier.reports)) == (0, 2)


def test_accumulated_gradients_are_one_step():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=1000)
    for micro in range(8):
        (loss_of(model) / 4).backward()
        if micro % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    assert (stray(model, sparsifier), sparsifier.step_count) == (0, 2)


def test_an_average_of_the_weights_is_masked_by_its_owner():
    """As docs/your-own-loop.md has it: an average keeps values at places that are absent by now."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=40, update={"every": 2, "unit": "step"})
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(6):
        train(model, optimizer)
        average.update_parameters(model)
    assert stray(average.module, sparsifier) > 0
    sparsifier.apply_to(average)
    assert stray(average.module, sparsifier) == 0
    with pytest.raises(InputError, match="it is another one"):
        sparsifier.apply_to(torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)))
