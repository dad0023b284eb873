"""Averaging: the golden trace of the specification, torch's ASGD as oracle, exact state."""

import copy
import math

import pytest
import torch
from torch import nn

from sparsernn.core.registry import make
from sparsernn.optim import NTASGD, OPTIMIZERS, nt_asgd
from sparsernn.optim.nt_asgd import FOLD_EVERY, NonMonotone
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.sparsity import SPARSIFIERS

MASKS = {1: [1, 1, 0], 2: [1, 1, 0], 3: [1, 1, 0], 4: [1, 0, 1], 5: [1, 0, 1], 6: [1, 1, 1], 7: [1, 1, 1]}
GOLDEN = {  # step: weights, averages, average of the dense scalar
    1: ([1.1, 2.2, 0], [1.1, 2.2, 0], 6),
    2: ([1.3, 2.6, 0], [1.3, 2.6, 0], 8),
    3: ([1.6, 3.2, 0], [1.45, 2.9, 0], 9.5),
    4: ([2.0, 0, 1.2], [1.63333, 0, 1.2], 11.33333),
    5: ([2.5, 0, 2.7], [1.85, 0, 2.7], 13.5),
    6: ([3.1, 1.2, 4.5], [2.1, 1.2, 3.6], 16),
    7: ([3.8, 2.6, 6.6], [2.38333, 2.6, 4.6], 18.83333),
}


@pytest.mark.parametrize("read_every", [1, 3, 7])
def test_golden_trace(read_every):
    w, b = nn.Parameter(torch.tensor([1.0, 2.0, 0.0])), nn.Parameter(torch.tensor(5.0))
    optimizer = NTASGD([w, b], lr=1.0, switch_epoch=0, per_weight=True)
    before = torch.tensor(MASKS[1]).bool()
    for t in range(1, 8):
        mask = torch.tensor(MASKS[t]).bool()
        w.data *= mask
        optimizer.rewired(w, mask, mask & ~before)
        before = mask
        w.grad, b.grad = torch.tensor([-0.1 * t, -0.2 * t, -0.3 * t]), torch.tensor(-float(t))
        optimizer.step()
        w.data *= mask
        optimizer.state[w]["sum"] *= mask
        torch.testing.assert_close(w.data, torch.tensor(GOLDEN[t][0], dtype=torch.float))
        if t % read_every == 0:
            with optimizer.averaged():
                torch.testing.assert_close(
                    w.data, torch.tensor(GOLDEN[t][1], dtype=torch.float), atol=1e-5, rtol=0
                )
                assert math.isclose(b.item(), GOLDEN[t][2], rel_tol=1e-6)
            torch.testing.assert_close(w.data, torch.tensor(GOLDEN[t][0], dtype=torch.float))


@pytest.mark.parametrize("per_weight", [False, True])
def test_equals_torchs_asgd_on_a_dense_model(per_weight):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(4, 3, dtype=torch.double))
    theirs = nn.Parameter(w.detach().clone())
    mine_opt = NTASGD([w], lr=0.1, weight_decay=0.01, switch_epoch=0, per_weight=per_weight)
    their_opt = torch.optim.ASGD([theirs], lr=0.1, t0=0, lambd=0, weight_decay=0.01)
    for _ in range(20):
        w.grad = torch.randn(4, 3, dtype=torch.double)
        theirs.grad = w.grad.clone()
        mine_opt.step()
        their_opt.step()
    torch.testing.assert_close(w.data, theirs.data)
    with mine_opt.averaged():
        torch.testing.assert_close(w.data, their_opt.state[theirs]["ax"])


def test_average_over_many_folds_is_the_mean_of_the_iterates():
    w = nn.Parameter(torch.zeros(1, dtype=torch.double))
    optimizer, iterates = NTASGD([w], lr=1.0, switch_epoch=0), []
    for t in range(2 * FOLD_EVERY + 100):
        w.grad = torch.tensor([math.sin(t)], dtype=torch.double)
        optimizer.step()
        iterates.append(w.item())
    with optimizer.averaged():
        assert math.isclose(w.item(), sum(iterates[1:]) / len(iterates[1:]), rel_tol=1e-9)


@pytest.mark.parametrize("name", ["nt_asgd", "snt_asgd"])
def test_averages_of_absent_weights_are_zero_whenever_they_are_folded(name, monkeypatch):
    monkeypatch.setattr(nt_asgd, "FOLD_EVERY", 4)
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    optimizer = OPTIMIZERS[name](model.parameters(), lr=1.0, switch_epoch=0)
    sparsifier = make(
        "sparsity", SPARSIFIERS, {"name": "static", "density": 0.5}, model=model, optimizer=optimizer
    )
    absent = ~sparsifier.masks()["weight"]
    for _ in range(11):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        sparsifier.after_step()
        state = optimizer.state[model.weight]
        assert state["average"][absent].abs().sum() == 0
        assert state["sum"][absent].abs().sum() == 0
    with optimizer.averaged():
        assert model.weight[absent].abs().sum() == 0
        assert model.weight[~absent].abs().min() > 0


def test_plain_averaging_drags_a_grown_weight_to_zero_and_per_weight_averaging_does_not():
    averages = {}
    for per_weight in (False, True):
        w = nn.Parameter(torch.zeros(1))
        optimizer, absent = NTASGD([w], lr=1.0, switch_epoch=0, per_weight=per_weight), torch.tensor([False])
        for t in range(20):
            if t == 16:
                optimizer.rewired(w, ~absent, ~absent)
            w.grad = torch.tensor([-1.0]) if t == 16 else torch.tensor([0.0])
            optimizer.step()
        with optimizer.averaged():
            averages[per_weight] = w.item()
    assert averages[True] == pytest.approx(1.0)
    assert averages[False] == pytest.approx(4 / 19)


def test_trigger_needs_more_than_n_losses_and_a_worse_one():
    trigger = NonMonotone(patience=5)
    assert [trigger(loss) for loss in (5, 4, 3, 3.5, 3.5, 3.5, 4.5)] == [False] * 6 + [False]
    trigger = NonMonotone(patience=5)
    assert [trigger(loss) for loss in (3, 4, 4, 4, 4, 4, 3.5)] == [False] * 6 + [True]


def test_averaging_starts_once_and_never_goes_back():
    optimizer = NTASGD([nn.Parameter(torch.zeros(1))], lr=1.0, nonmono=1)
    assert [optimizer.trigger(loss) for loss in (1.0, 1.0, 2.0, 0.5)] == [False, False, True, False]
    assert optimizer.averaging


def test_switch_epoch_forces_the_trigger():
    optimizer = NTASGD([nn.Parameter(torch.zeros(1))], lr=1.0, switch_epoch=2)
    assert [optimizer.trigger(loss) for loss in (3.0, 2.0, 1.0)] == [False, True, False]


def test_finetuning_asks_to_stop_when_the_trigger_fires_again():
    optimizer = NTASGD(
        [nn.Parameter(torch.zeros(1))], lr=1.0, nonmono=1, switch_epoch=0, stop_when_worse=True
    )
    for loss in (1.0, 1.0):
        optimizer.trigger(loss)
    assert not optimizer.exhausted
    optimizer.trigger(2.0)
    assert optimizer.exhausted


def test_a_parameter_without_gradient_keeps_its_weight():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = NTASGD([used, unused], lr=1.0, switch_epoch=0)
    used.grad = torch.ones(2)
    optimizer.step()
    with optimizer.averaged():
        assert torch.equal(unused.data, torch.ones(2))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_state_survives_a_checkpoint_to_the_bit(name, tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = OPTIMIZERS[name](model.parameters(), lr=0.1)
    if name.endswith("asgd"):
        optimizer.averaging = True

    def steps(model, optimizer, count, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()

    steps(model, optimizer, 5, 1)
    save_checkpoint(tmp_path / "c", {"optimizer": optimizer.state_dict()})
    twin = copy.deepcopy(model)
    restored = OPTIMIZERS[name](twin.parameters(), lr=0.1)
    restored.load_state_dict(load_checkpoint(tmp_path / "c")["optimizer"])
    steps(model, optimizer, 5, 2)
    steps(twin, restored, 5, 2)
    with optimizer.averaged(), restored.averaged():
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("per_weight", [False, True])
def test_averages_are_folded_at_the_limit_and_not_before(monkeypatch, per_weight):
    """The running sum never holds more iterates than the limit: beyond it, its rounding would show."""
    monkeypatch.setattr(nt_asgd, "FOLD_EVERY", 4)
    w = nn.Parameter(torch.zeros(3))
    optimizer = NTASGD([w], lr=1.0, switch_epoch=0, per_weight=per_weight)
    held, iterates = [], []
    for step in range(1, 12):
        w.grad = torch.full((3,), -float(step))
        optimizer.step()
        iterates.append(w.detach().clone())
        held.append(optimizer.state[w]["block"])
    assert held == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
    with optimizer.averaged():
        torch.testing.assert_close(w.detach(), torch.stack(iterates[1:]).mean(0))


def test_a_run_is_exhausted_only_while_averaging_and_only_where_asked():
    losses = [5.0, 4.0, 6.0, 3.0, 7.0]  # the trigger fires at 6 and at 7

    def story(**settings):
        optimizer = NTASGD([nn.Parameter(torch.zeros(1))], lr=1.0, nonmono=1, **settings)
        return [(optimizer.trigger(loss), optimizer.averaging, optimizer.exhausted) for loss in losses]

    asked = story(stop_when_worse=True)
    assert [row[0] for row in asked].count(True) == 1  # averaging starts once
    start = [row[0] for row in asked].index(True)
    assert not any(exhausted for _, _, exhausted in asked[: start + 1])  # what starts it does not end the run
    assert asked[-1][2]
    assert not any(exhausted for _, _, exhausted in story())
