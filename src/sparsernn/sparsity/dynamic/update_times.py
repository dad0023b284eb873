"""When masks change, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparsernn.core.checks import check_value
from sparsernn.core.limits import Share
from sparsernn.optim.schedules import SCHEDULES, Schedule, make_schedule
from sparsernn.sparsity.dynamic.engine_settings import Settings, Updates

# A run of unknown length anneals its prune rate over this many steps.
PLANNED_STEPS = 10_000


@dataclass(frozen=True)
class Length:
    """How long the run is, as far as known.

    Attributes:
        total_steps: optimizer steps of the whole run, over which the prune rate is annealed (if not known:
            10,000).
        epochs: epochs of the whole run; with neither, no update counts as the last.
    """

    total_steps: int | None = None
    epochs: int | None = None


def prune_schedule(settings: Settings, length: Length) -> Schedule:
    """The prune rate as a function of the step, annealed over the part of the run in which updates happen.

    Raises:
        InputError: a schedule that leaves [0, 1].
    """
    rate = settings.rate
    steps = max(1, round(settings.updates.stop * (length.total_steps or PLANNED_STEPS)))
    if isinstance(rate.prune_rate, Mapping) or rate.anneal == "constant":
        schedule = make_schedule(rate.prune_rate, steps)
        for at in (0, steps // 2, steps):
            check_value(f"prune_rate at step {at}", schedule(at), Share)
        return schedule
    return SCHEDULES[rate.anneal](rate.prune_rate, min(rate.prune_rate_end, rate.prune_rate), steps)


def is_due(updates: Updates, length: Length, unit: str, epoch: int, step: int) -> bool:
    """Whether an update falls on the end of this epoch (unit "epoch") or on this step (unit "step").

    Args:
        updates: the settings.
        length: of the run.
        unit: what has just ended.
        epoch: epochs that have ended, this one included.
        step: optimizer steps so far.

    Example:
        >>> [is_due(Updates(every=2), Length(epochs=6), "epoch", e, 0) for e in range(1, 7)]
        [False, True, False, True, False, False]
    """
    count = epoch if unit == "epoch" else step
    if updates.unit != unit or updates.every == 0 or count % updates.every:
        return False
    progress = _progress(length, unit, epoch, step)
    if progress is None:  # nothing is known about the end
        return True
    # Windows of random length may take more steps than planned: past the plan, masks stay as they are.
    within = updates.start <= progress <= updates.stop
    return within and (updates.last or progress < 1)


def any_due(updates: Updates, length: Length) -> bool:
    """Whether any update falls into a run of known length.

    Example:
        >>> any_due(Updates(every=100, unit="step"), Length(40)), any_due(Updates(every=2), Length(epochs=6))
        (False, True)
    """
    unit = updates.unit
    total = (length.epochs or length.total_steps) if unit == "epoch" else length.total_steps
    if updates.every == 0 or total is None or (unit == "epoch" and length.epochs is None):
        return updates.every != 0  # in epochs of unknown number some will end
    counts = range(updates.every, total + 1, updates.every)
    return any(is_due(updates, length, unit, *((n, 0) if unit == "epoch" else (0, n))) for n in counts)


def _progress(length: Length, unit: str, epoch: int, step: int) -> float | None:
    if unit == "epoch" and length.epochs:
        return epoch / length.epochs
    return step / length.total_steps if length.total_steps else None


def told_never(updates: Updates, length: Length) -> list[str]:
    """That the masks of a run of known length never change though they should; a sentence, or none.

    >>> told_never(Updates(every=3), Length(epochs=2))[0][:52]
    'the masks will never change: an update is due every '
    """
    known = length.total_steps is not None or length.epochs is not None
    if updates.every == 0 or not known or any_due(updates, length):
        return []
    total = length.epochs if updates.unit == "epoch" else length.total_steps
    return [
        f"the masks will never change: an update is due every {updates.every} {updates.unit}s, and none falls "
        f"into a run of {total} (update.start is {updates.start}, update.stop {updates.stop}); lower "
        "update.every, or use static masks."
    ]
