"""Whole numbers that add up, and the published densities."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.sparsity.dynamic.budget import (
    erdos_renyi_counts,
    share_of,
    uniform_counts,
    update_tau,
    water_fill,
)

# The masked tensors of the published models on Penn Treebank (V = 10000).
LSTM = [(10000, 1500)] + [(6000, 1500)] * 4 + [(10000, 1500)]
RHN = [(10000, 830)] + [(1660, 830)] * 11
ONLSTM = [(10000, 400), (4830, 400), (4830, 1150), (4830, 1150), (4830, 1150), (1680, 1150), (1680, 400)]

vessels = st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(vessels, st.floats(0, 1))
def test_water_fill_gives_everything_and_overfills_nothing(vessels, fraction):
    shares, capacities = zip(*vessels, strict=True)
    total = int(fraction * sum(capacities))
    parts = water_fill(total, shares, capacities)
    assert sum(parts) == total
    assert all(0 <= part <= capacity for part, capacity in zip(parts, capacities, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 10_000))
def test_water_fill_is_proportional_where_there_is_room(shares, total):
    parts = water_fill(total, shares, [total] * len(shares))
    for share, part in zip(shares, parts, strict=True):
        assert abs(part - total * share / sum(shares)) < 1


@pytest.mark.parametrize(
    ("total", "shares", "capacities", "parts"),
    [
        (12, [1, 1, 1, 1], [9, 9, 9, 9], [3, 3, 3, 3]),
        (14, [1, 1, 1, 1], [9, 9, 9, 9], [4, 4, 3, 3]),  # largest remainder, the first ones win ties
        (12, [1, 1, 1, 1], [1, 9, 9, 9], [1, 4, 4, 3]),  # the rest of the full vessel goes to the others
        (10, [0, 0, 5], [10, 10, 4], [3, 3, 4]),  # share 0 gets only what nobody else can take
        (10, [0, 0], [10, 10], [5, 5]),
        (99, [1, 1], [3, 4], [3, 4]),  # no more than fits
        (0, [1, 1], [3, 4], [0, 0]),
        (7, [5, 3, 1], [9, 9, 9], [4, 2, 1]),
    ],
)
def test_water_fill_by_hand(total, shares, capacities, parts):
    assert water_fill(total, shares, capacities) == parts


@pytest.mark.parametrize(
    ("shapes", "density", "active"),
    [(LSTM, 0.33, 21_780_000), (RHN, 0.472, 11_071_138), (ONLSTM, 0.45, 11_339_775)],
    ids=["LSTM", "RHN", "ON-LSTM"],
)
def test_published_parameter_counts(shapes, density, active):
    counts = uniform_counts([density] * len(shapes), shapes)
    assert sum(counts) == active
    assert all(abs(n - density * math.prod(shape)) < 1 for n, shape in zip(counts, shapes, strict=True))
    assert sum(erdos_renyi_counts([density] * len(shapes), shapes)) == active


def test_erdos_renyi_has_the_checked_densities():
    counts = erdos_renyi_counts([0.33] * len(LSTM), LSTM)
    found = [round(n / math.prod(shape), 6) for n, shape in zip(counts, LSTM, strict=True)]
    assert found == [0.315057] + [0.342453] * 4 + [0.315057]
    assert counts[0] / 11500 == pytest.approx(410.943, abs=1e-3)  # epsilon
    counts = erdos_renyi_counts([0.472] * len(RHN), RHN)
    found = [round(n / math.prod(shape), 5) for n, shape in zip(counts, RHN, strict=True)]
    assert found == [0.37797] + [0.5235] * 11


def test_erdos_renyi_caps_dense_tensors_and_keeps_the_total():
    shapes = [(100, 100), (4, 4), (50, 3)]
    counts = erdos_renyi_counts([0.5] * 3, shapes)
    assert sum(counts) == round(0.5 * 10166)
    assert counts[1:] == [16, 150]  # both would need more than all of their weights
    assert counts[0] == 5083 - 166


def test_erdos_renyi_counts_blocks():
    assert erdos_renyi_counts([0.5, 0.5], [(32, 32), (16, 8)], cells=[64, 8]) == [28, 8]  # 8 blocks are all


@pytest.mark.parametrize(
    ("fraction", "count", "share"),
    [(0.0, 9, 0), (0.5, 5, 3), (0.1, 30, 3), (0.7, 10, 7), (1.0, 9, 9), (1e-9, 9, 1)],
)
def test_share_of_rounds_up_but_forgives_noise(fraction, count, share):
    assert share_of(fraction, count) == share


@pytest.mark.parametrize(("removed", "tau"), [(97, 2.0), (98, 1.0), (100, 1.0), (102, 1.0), (103, 0.5)])
def test_adaptive_threshold(removed, tau):
    assert update_tau(1.0, removed, 100) == tau
