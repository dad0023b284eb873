"""Exact choice: always the right number, always the right ones, every subset equally likely."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.sparsity.dynamic import selection
from sparsernn.sparsity.dynamic.selection import blank, by_magnitude, count_true, lottery

SHAPES = ((50, 60), (30, 101))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["as shipped", "small limits"])
def limits(request, monkeypatch):
    """The fast paths start at sizes that tests do not reach; bring them down."""
    if request.param == "small limits":
        monkeypatch.setattr(selection, "CHUNK", 1000)
        monkeypatch.setattr(selection, "SAMPLE", 500)
        monkeypatch.setattr(selection, "FEW", 64)


def pool(seed, ties=False):
    g = generator(seed)
    values = [torch.randn(shape, generator=g) for shape in SHAPES]
    if ties:
        values = [(2 * v).round() for v in values]
        values[0][3:20] = 0
    return values, [torch.rand(shape, generator=g) < 0.4 for shape in SHAPES]


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_by_magnitude_is_exact(largest, ties, fraction, seed):
    values, eligible = pool(seed, ties)
    count = int(fraction * count_true(eligible))
    chosen = by_magnitude(values, eligible, count, generator(seed), largest=largest)
    assert count_true(chosen) == count
    assert not any((c & ~e).any() for c, e in zip(chosen, eligible, strict=True))
    inside = torch.cat([v[c].abs() for v, c in zip(values, chosen, strict=True)])
    outside = torch.cat([v[e & ~c].abs() for v, c, e in zip(values, chosen, eligible, strict=True)])
    if len(inside) and len(outside):
        assert inside.min() >= outside.max() if largest else inside.max() <= outside.min()


@pytest.mark.usefixtures("limits")
def test_a_sample_that_misleads_does_not_change_the_choice(monkeypatch):
    values, eligible = pool(5)
    truth = by_magnitude(values, eligible, 700, generator(), largest=False)
    monkeypatch.setattr(selection, "_bracket", lambda *_: (3.0, 3.1))
    assert all(map(torch.equal, truth, by_magnitude(values, eligible, 700, generator(), largest=False)))


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("largest", [False, True])
def test_many_equal_values(largest):
    values, eligible = pool(6)
    for part in values:
        part[:, 3:] = 0.0 if largest else 2.5
        part[:, :3] = part[:, :3].sign() * (part[:, :3].abs() + (0.1 if largest else 0.0)).clamp(max=2.4)
    rare = sum(int(e[:, :3].sum()) for e in eligible)
    for count in (rare - 5, rare, rare + 1, rare + 700):
        chosen = by_magnitude(values, eligible, count, generator(count), largest=largest)
        assert count_true(chosen) == count
        assert sum(int(c[:, :3].sum()) for c in chosen) == min(count, rare)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("count", [0, 1, 63, 400, 1800, 99999])
def test_lottery_is_exact(count):
    _, eligible = pool(2)
    chosen = lottery(eligible, count, generator())
    assert count_true(chosen) == min(count, count_true(eligible))
    assert not any((c & ~e).any() for c, e in zip(chosen, eligible, strict=True))


@pytest.mark.parametrize("few", [4, 1 << 16], ids=["bytes", "indices"])
def test_every_position_is_equally_likely(few, monkeypatch):
    monkeypatch.setattr(selection, "FEW", few)
    eligible = torch.rand(40, generator=generator(1)) < 0.7
    g, rounds = generator(2), 1000
    hits = sum(lottery([eligible], 9, g)[0].long() for _ in range(rounds))
    expected = rounds * 9 / int(eligible.sum())
    spread = math.sqrt(expected * (1 - expected / rounds))
    assert (hits[eligible] - expected).abs().max() < 4.5 * spread
    assert hits[~eligible].sum() == 0


def test_pairs_are_as_likely_as_independence_demands(monkeypatch):
    monkeypatch.setattr(selection, "FEW", 2)
    g, rounds = generator(3), 1500
    draws = torch.stack([lottery([torch.ones(8, dtype=torch.bool)], 4, g)[0] for _ in range(rounds)]).float()
    together = (draws.T @ draws)[~torch.eye(8, dtype=torch.bool)] / rounds
    assert (together - 4 * 3 / (8 * 7)).abs().max() < 0.048  # four standard errors


@pytest.mark.parametrize("largest", [False, True])
def test_undefined_values_come_last_and_the_count_holds(largest):
    values = torch.tensor([math.nan, 1.0, math.nan, 2.0, math.nan])
    chosen = by_magnitude([values], [torch.ones(5, dtype=torch.bool)], 3, generator(), largest=largest)[0]
    assert chosen[1]
    assert chosen[3]
    assert int(chosen.sum()) == 3


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    values, eligible = pool(0, ties=True)
    lottery(eligible, 500, generator())
    by_magnitude(values, eligible, 500, generator(), largest=True)
    assert torch.equal(before, torch.get_rng_state())


def test_same_seed_same_choice():
    values, eligible = pool(0, ties=True)
    one, two = (by_magnitude(values, eligible, 500, generator(7), largest=False) for _ in range(2))
    assert all(map(torch.equal, one, two))


def test_half_a_million_positions_through_the_fast_path():
    g = generator(0)
    values = torch.randn(700, 1000, generator=g)
    eligible = torch.rand(700, 1000, generator=g) < 0.5
    chosen = by_magnitude([values], [eligible], 100_000, g, largest=False)[0]
    border = values[eligible].abs().kthvalue(100_000).values
    assert torch.equal(chosen, eligible & (values.abs() <= border))
    assert int(lottery([eligible], 123_456, g)[0].sum()) == 123_456


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3, width=16), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 45),
    st.booleans(),
)
def test_by_magnitude_agrees_with_sorting(entries, count, largest):
    values = torch.tensor([value for value, _ in entries])
    eligible = torch.tensor([flag for _, flag in entries])
    chosen = by_magnitude([values], [eligible], count, generator(), largest=largest)[0]
    ranked = sorted((abs(v) for v, flag in entries if flag), reverse=largest)[:count]
    assert sorted(values[chosen].abs().tolist(), reverse=largest) == pytest.approx(ranked)


def test_blank_is_false_everywhere():
    assert not blank(torch.ones(3, 4, dtype=torch.bool)).any()
