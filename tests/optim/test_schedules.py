"""Schedules: golden values, end points, settings."""

import pytest

from sparsernn.errors import InputError
from sparsernn.optim.schedules import cosine, linear, make_schedule


def test_cosine_has_the_published_values():
    rate = cosine(0.8, 0.005, 132_797)
    golden = {0: 0.8, 1328: 0.799804, 66_398: 0.402505, 131_469: 0.005196, 132_797: 0.005}
    assert {step: round(rate(step), 6) for step in golden} == golden


@pytest.mark.parametrize("kind", [cosine, linear])
def test_ends_stay_put(kind):
    rate = kind(0.7, 0.1, 10)
    assert rate(0) == pytest.approx(0.7)
    assert rate(10) == rate(1000) == pytest.approx(0.1)


def test_a_schedule_may_set_its_own_length():
    assert make_schedule({"name": "linear", "start": 1.0, "end": 0.0, "steps": 4}, steps=100)(4) == 0.0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cosin", "Did you mean 'cosine'"),
        ({"name": "cosine", "start": 1.0}, "needs a value for 'end'"),
        (None, "a number or a mapping"),
        (True, "a number or a mapping"),
        (float("nan"), "a schedule is nan; it must be a finite number"),
        ({"name": "cosine", "start": "high", "end": 0.0}, "schedule.start is 'high'; it must be a finite"),
        ({"name": "constant", "value": "x"}, "schedule.value is 'x'"),
        ({"name": "exponential", "start": 1, "factor": 0.5, "every": 2.5}, "schedule.every is 2.5"),
        ({"name": "linear", "start": 1, "end": 0, "steps": "long"}, "schedule.steps is 'long'"),
        ({"name": "linear", "start": 1, "end": 0, "steps": 0}, "over 0 steps"),
    ],
)
def test_bad_schedules_are_answered_in_one_sentence(spec, words):
    with pytest.raises(InputError, match=words):
        make_schedule(spec, steps=10)
