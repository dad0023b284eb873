"""Phases and restarts: the table of the published runs, and what the plan says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sparsernn.core.errors import InputError
from sparsernn.gradients import Alternating, PhaseSchedule, SyntheticGradient
from sparsernn.models import SequenceModel
from sparsernn.optim import make_learning_rate
from sparsernn.optim.restarts import Restarts
from sparsernn.runs.epoch_kinds import phase_rows

EPOCHS = 320
BY_160, BY_5 = [1, 161], [1, 6, 11, 21, 41, 81, 161]
# name: boundary, its settings, epochs of the synthetic gradient, base of the restarts, epochs of the restarts
PUBLISHED = {
    "dni": (SyntheticGradient, {"start": "real", "switch_epochs": [2]}, [(2, 320)], None, []),
    "dni rb160": (
        SyntheticGradient,
        {"start": "real", "switch_epochs": [2]},
        [(2, 320)],
        [160, 320],
        BY_160,
    ),
    "dni rb5": (SyntheticGradient, {"start": "real", "switch_epochs": [2]}, [(2, 320)], 5, BY_5),
    "ptb alternating rb160": (Alternating, {"base": [160, 320]}, [(161, 320)], [160, 320], BY_160),
    "ptb alternating rb5": (Alternating, {"base": 5}, [(6, 10), (21, 40), (81, 160)], 5, BY_5),
    "wt2 alternating rb160": (
        Alternating,
        {"base": [160, 320], "switch_epochs": [2]},
        [(2, 160)],
        [160, 320],
        BY_160,
    ),
    "wt2 alternating rb5": (
        Alternating,
        {"base": 5, "switch_epochs": [2]},
        [(2, 5), (11, 20), (41, 80), (161, 320)],
        5,
        BY_5,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs(name):
    kind, settings, synthetic, base, restarts = PUBLISHED[name]
    boundary = kind(SequenceModel(1, 1, [2]), seed=1, epochs=EPOCHS, **settings)
    phases = boundary.phases()
    assert [(p["first"], p["last"]) for p in phases if p["source"] == "synthetic"] == synthetic
    assert sum(p["last"] - p["first"] + 1 for p in phases) == EPOCHS
    for epoch in (1, 2, 5, 6, 160, 161, 320):
        boundary.begin(epoch)
        assert boundary.injecting == any(a <= epoch <= b for a, b in synthetic)
    if base:
        rate = make_learning_rate({"name": "restarts", "start": 1e-3, "base": base}, steps=1)
        rates = [rate.rate(epoch) for epoch in range(1, EPOCHS + 1)]
        assert [e for e, value in enumerate(rates, 1) if value == 1e-3] == restarts
        assert [first for first, _ in rate.cycles(EPOCHS)] == restarts


def rate_as_published(base, epochs):
    """The published rules, step by step, for a single base: f says whether a restart has been, b the boundary."""
    f, b, rates = 0, base, []
    for epoch in range(1, epochs + 1):
        n, t = b - f * b / 2, epoch - 1 - f * b / 2
        lr = (1 + math.cos(math.pi * (t % n) / n)) / 2
        if epoch > b:
            f, b, lr = 1, 2 * b, 1.0
        rates.append(lr)
    return rates


@given(some.integers(1, 12), some.integers(1, 60))
def test_rate_is_the_published_one(base, epochs):
    rate = make_learning_rate({"name": "restarts", "start": 1.0, "base": base}, steps=1)
    found = []
    for _ in range(epochs):
        found.append(rate(123))  # the same in all steps of an epoch
        rate.observe(1.0)
    assert found == pytest.approx(rate_as_published(base, epochs))


def test_last_epochs_double_not_lengths():
    assert [b - a + 1 for a, b in Restarts(5).cycles(160)] == [5, 5, 10, 20, 40, 80]


def test_lists_that_do_not_double_keep_their_cycles_and_end_low():
    rate = make_learning_rate({"name": "restarts", "start": 1.0, "base": [2, 6], "end": 0.1}, steps=1)
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * t / n)) / 2 for n in (2, 4) for t in range(n)]
    assert [rate.rate(epoch) for epoch in range(1, 9)] == pytest.approx([*cosine, cosine[-1], cosine[-1]])


@given(
    some.integers(1, 40),
    some.sampled_from(["real", "synthetic"]),
    some.lists(some.integers(1, 50), max_size=9),
)
def test_phases_are_what_toggling_makes(epochs, start, toggles):
    schedule, now = PhaseSchedule(epochs, start, toggles), start
    for epoch in range(1, epochs + 1):
        for _ in range(toggles.count(epoch)):
            now = {"real": "synthetic", "synthetic": "real"}[now]
        assert schedule.source(epoch) == now
    assert [p.first for p in schedule.phases[1:]] == [p.last + 1 for p in schedule.phases[:-1]]


def test_begin_tells_of_a_change_where_there_is_one():
    boundary = SyntheticGradient(SequenceModel(1, 1, [2]), 1, 3, start="real", switch_epochs=[2])
    told = [boundary.begin(epoch) for epoch in (1, 2, 3)]
    assert told == [[{"event": "phase", "source": s}] for s in ("real", "synthetic")] + [[]]
    assert SyntheticGradient(SequenceModel(1, 1, [2]), 1, 3).begin(1) == []


def test_rows_of_a_plan_end_with_the_run():
    assert phase_rows([], [], 9) == []
    rows = phase_rows([], Restarts(5).cycles(8), 8)
    assert [(row["first"], row["last"], row["cycle"]) for row in rows] == [(1, 5, [1, 5]), (6, 8, [6, 10])]


@pytest.mark.parametrize("base", [0, True, [], [3, 3], [5, 2], "5", [1.5]])
def test_base_out_of_range(base):
    with pytest.raises(
        InputError,
        match=r"base is .*; it must be a whole number of at least 1 or a list of 1 or more that rises",
    ):
        Restarts(base)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": 0.0}, "it must be .* above 0"),
        ({"start": 1.0, "end": 2.0}, "the end of a schedule .* is 2.0"),
    ],
)
def test_rate_out_of_range(settings, words):
    with pytest.raises(InputError, match=words):
        make_learning_rate({"name": "restarts", "base": 5, **settings}, steps=1)
