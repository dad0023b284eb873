"""Corners of a mask update, each with its answer by hand."""

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.kernels import lasso_kernel
from sparsernn.sparsity.dynamic import mask_update
from sparsernn.sparsity.dynamic.engine_settings import parse
from sparsernn.sparsity.dynamic.mask_update import Situation
from sparsernn.sparsity.dynamic.masked_tensors import choose_tensors
from sparsernn.sparsity.dynamic.pools import make_pools
from sparsernn.sparsity.dynamic.selection import by_magnitude, lottery
from sparsernn.sparsity.penalties.group_lasso import group_lasso
from sparsernn.sparsity.projection import zero_absent


def two_tensors(empty, weights):
    """A situation with two tensors of 100 positions, of which `empty` are empty and the others have these weights."""
    model = nn.ModuleDict({"a": nn.Linear(10, 10), "b": nn.Linear(10, 10)})
    settings = parse({"density": 0.5, "redistribute": "magnitude"})
    tensors = choose_tensors(model, settings.tensors)
    masks = [(torch.arange(100) >= n).view(10, 10) for n in empty]
    grids = [torch.full((10, 10), float(w)) for w in weights]
    pools = make_pools(tensors, [], settings.rules.gate_scope, False)
    return Situation(pools, settings.rules, False, 0.5, 0.0, grids, masks)


@pytest.mark.parametrize(
    ("empty", "weights", "right"),
    [
        # nearly dense and wanting more than the average: no more than its empty share, 0.1 of 90 and 0.15 of 85
        ((10, 50), (2.0, 1.0), [9, 25]),
        ((15, 50), (2.0, 1.0), [13, 25]),
        # nearly dense, but wanting less than the average
        ((10, 50), (1.0, 2.0), [40, 25]),
        # wanting more, but 20 % or more of it is empty
        ((20, 50), (2.0, 1.0), [40, 25]),
        ((30, 50), (2.0, 1.0), [40, 25]),
        # both want the average
        ((10, 50), (1.0, 1.0), [40, 25]),
        # what the rate asks for is less than that already
        ((19, 50), (2.0, 1.0), [16, 25]),
    ],
)
def test_a_nearly_dense_tensor_that_would_gain_is_spared(empty, weights, right):
    now = two_tensors(empty, weights)
    room = [mask_update._empty(pool, now.masks) for pool in now.pools.prune]
    assert room == list(empty)
    assert mask_update._spare_nearly_dense(now, [40, 25], room) == right


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_no_position_of_a_pool_is_chosen_twice_or_for_another(seed, count):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.ones(n, dtype=torch.bool) for n in (2, 5, 3)]
    chosen = lottery(parts, count, generator)
    assert sum(int(part.sum()) for part in chosen) == count
    values = [
        torch.arange(10.0)[start : start + len(part)] for start, part in zip((0, 2, 7), parts, strict=True)
    ]
    kept = by_magnitude(values, parts, count, generator, largest=False)
    assert torch.cat(kept).tolist() == [n < count for n in range(10)]


def test_every_part_of_a_pool_is_drawn_from():
    """Of 3 parts with 2, 5 and 3 positions, the one in each part is drawn as often as its size says."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.ones(n, dtype=torch.bool) for n in (2, 5, 3)]
    hits = torch.zeros(10)
    for _ in range(2000):
        hits += torch.cat(lottery(parts, 1, generator)).float()
    assert hits.sum() == 2000
    # 200 expected at each position; five standard deviations are 67
    assert bool(((hits - 200).abs() < 67).all())


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_what_an_optimizer_keeps_of_a_dead_unit_is_zero(kind):
    settings = {"lr": 0.1} if kind is torch.optim.Adam else {"lr": 0.1, "momentum": 0.9}
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "head": nn.Linear(4, 2)})
    optimizer = kind(model.parameters(), **settings)

    def step(penalty=None):
        optimizer.zero_grad()
        model["head"](model["rnn"](torch.ones(5, 2, 3))[0]).square().sum().backward()
        if penalty is not None:
            penalty.after_backward()
        optimizer.step()
        if penalty is not None:
            penalty.after_step()

    step()  # every buffer is full
    penalty = group_lasso(model, optimizer, strength=1e-6, freeze_dead=True, consumers={"rnn": ["head"]})
    unit = 2
    with torch.no_grad():
        for s in penalty.units[0].slices:
            s.parameter.index_fill_(s.dim, s.indices(torch.tensor([unit])), 0.0)
    step(penalty)
    step(penalty)
    for s in penalty.units[0].slices:
        held = [
            v
            for v in optimizer.state[s.parameter].values()
            if torch.is_tensor(v) and v.shape == s.parameter.shape
        ]
        assert held
        for tensor in (s.parameter, *held):
            assert not tensor.detach().index_select(s.dim, s.indices(torch.tensor([unit]))).any()


@pytest.mark.parametrize("write", ["zeros", "threshold", "signs"])
def test_autograd_sees_that_weights_were_changed_in_place(write):
    """A graph that still needs the old numbers must refuse to go backwards."""
    weight = nn.Parameter(torch.ones(4, 4))
    loss = (weight * weight).sum()
    {
        "zeros": lambda: zero_absent([weight.detach()], torch.eye(4, dtype=torch.bool)),
        "threshold": lambda: lasso_kernel.threshold(weight.detach(), 2.0),
        "signs": lambda: lasso_kernel.add_signs(weight.detach(), torch.ones(4, 4), 1.0),
    }[write]()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_blocks_and_gates_keep_their_counts_through_updates():
    model = nn.LSTM(8, 16)
    sparsifier = sparsify(model, density=0.25, block=[4, 1], gate_scope="independent", total_steps=1000)
    before = {name: entry["gates"] for name, entry in sparsifier.summary()["tensors"].items()}
    for _ in range(3):
        sparsifier.update()
    assert {name: entry["gates"] for name, entry in sparsifier.summary()["tensors"].items()} == before


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"redistribute": "magnitude"},
        {"prune": "global_magnitude"},
        {"gate_scope": "even"},
        {"gate_scope": "independent"},
        {"gate_scope": "cell"},
        {"grow": "gradient"},
        {"prune": "threshold", "tau": 0.1},
    ],
)
@pytest.mark.parametrize("frozen", [["0.weight_hh_l0"], ["0.weight_ih_l0", "0.weight_hh_l0", "1.weight"]])
def test_frozen_weights_are_not_rewired_away(settings, frozen):
    """What does not learn would lose its smallest weights at each update, for zeros that stay zeros."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.LSTM(8, 12), nn.Linear(12, 12)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(
        model, optimizer, method="dynamic", density=0.3, prune_rate=0.5, manual_epochs=True, **settings
    )
    named = dict(model.named_parameters())
    for name in frozen:
        named[name].requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in named.items()}
    active = sparsifier.summary()["masked_active"]
    if len(frozen) < 3:
        model[1](model[0](torch.randn(4, 2, 8))[0]).square().mean().backward()
    report = sparsifier.update()
    changed = {name for name in before if not torch.equal(before[name] != 0, named[name].detach() != 0)}
    assert not changed & set(frozen)
    assert all(report["tensors"][name]["pruned"] == report["tensors"][name]["grown"] == 0 for name in frozen)
    assert sum(int(mask.sum()) for mask in sparsifier.masks().values()) == active
    assert (sum(row["pruned"] for row in report["tensors"].values()) > 0) == (len(frozen) < 3)


@pytest.mark.parametrize("seed", ["x", 1.5, None, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match=r"seed is .* whole number"):
        sparsify(nn.Linear(4, 4), density=0.5, seed=seed)


@pytest.mark.parametrize(
    ("start", "end", "odd"), [(2.0, 0.0, "step 0 is 2"), (0.5, -1.0, "step 50 is -0.25")]
)
def test_a_schedule_of_the_prune_rate_stays_a_share(start, end, odd):
    rate = {"name": "linear", "start": start, "end": end}
    with pytest.raises(InputError, match=rf"prune_rate at {odd}"):
        sparsify(nn.Linear(4, 4), density=0.5, total_steps=100, prune_rate=rate)
