"""Schedules: functions step -> value, used for every rate of a run.

Every function of this file returns a function of one argument, the step (a whole number from 0), and accepts the
length of the run as `steps`. After the last step the value stays where it ended.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

from sparsernn.core.checks import check_value, checked
from sparsernn.core.limits import Kind, Positive, Size, Spec
from sparsernn.core.registry import make

Schedule = Callable[[int], float]
Rate = float | Annotated[Spec, Kind("schedule")]
"""What a recipe writes for a rate: a number, or the spec of a schedule."""


@checked
def constant(value: float) -> Schedule:
    """The same value at every step.

    Args:
        value: at every step.

    >>> constant(0.5)(10)
    0.5
    """
    return partial(_constant, value)


@checked
def cosine(start: float, end: float, steps: Size) -> Schedule:
    """Half a cosine from `start` to `end`: end + (start - end) * (1 + cos(pi * t / steps)) / 2.

    Source: I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
    arXiv:1608.03983 (one period of it).

    Args:
        start: at step 0.
        end: from step `steps` on.
        steps: of the descent, at least 1; of a recipe the run's own unless given.

    Differs from the original: the value stays at `end` after `steps`; torch's CosineAnnealingLR rises again.

    >>> round(cosine(0.8, 0.005, 132797)(66398), 6)
    0.402505
    """
    return partial(_cosine, start, end, steps)


@checked
def linear(start: float, end: float, steps: Size) -> Schedule:
    """A straight line from `start` to `end`.

    Args:
        start: at step 0.
        end: from step `steps` on.
        steps: of the line, at least 1; of a recipe the run's own unless given.

    >>> linear(1.0, 0.0, 4)(1)
    0.75
    """
    return partial(_linear, start, end, steps)


@checked
def exponential(start: float, factor: Positive, every: Size) -> Schedule:
    """`start` multiplied by `factor` after each `every` steps.

    Args:
        start: at step 0.
        factor: above 0.
        every: steps between two multiplications, at least 1.

    >>> exponential(1.0, 0.5, every=10)(25)
    0.25
    """
    return partial(_exponential, start, factor, every)


# Functions of the file's level, which can be pickled; a lambda cannot.


def _constant(value: float, step: int) -> float:
    return value


def _cosine(start: float, end: float, steps: int, step: int) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def _linear(start: float, end: float, steps: int, step: int) -> float:
    return start + (end - start) * min(step, steps) / steps


def _exponential(start: float, factor: float, every: int, step: int) -> float:
    return float(start * factor ** (step // every))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "exponential": exponential,
}


def make_schedule(
    spec: Rate,
    steps: int,
    schedules: Mapping[str, Callable[..., Schedule]] = SCHEDULES,
) -> Schedule:
    """A number means that constant; a mapping names one of `schedules`, which gets `steps` unless it sets it.

    >>> make_schedule(0.5, steps=100)(99)
    0.5
    >>> make_schedule({"name": "linear", "start": 0.0, "end": 1.0}, steps=100)(50)
    0.5
    """
    check_value("a schedule", spec, Rate)
    if isinstance(spec, int | float):
        return constant(float(spec))
    own_length = isinstance(spec, Mapping) and "steps" in spec
    schedule: Schedule = make("schedule", schedules, spec, **({} if own_length else {"steps": max(1, steps)}))
    return schedule
