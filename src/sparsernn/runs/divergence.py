"""When a training run has left every sensible range, the same on every machine.

Whether weights that explode end in NaN or in a loss of 1e290 depends on how a processor rounds and in which order it
adds; neither can be trained on. So a large finite loss counts as well, once it lasts.
"""

import math
from collections.abc import Iterable

from torch import Tensor

from sparsernn.core.errors import InputError

TIMES_FIRST = 100.0
"""A first loss is about that of a guess among the classes. A hundred times that is worse than any guess, and far
above what single bad batches, restarts of the learning rate or the first steps of word models at rate 30 come to."""

LEAST_SCALE = 1.0
"""Nats, or the task's unit: what the first loss counts as at least, for runs that start from trained weights."""

STEPS = 10
"""So many more steps out of range than in it: a loss may jump for a few and come back."""


class Diverged(InputError):
    """The loss has left every sensible range; the state before it is kept."""


def limit(first: float) -> float:
    """The loss above which a run is no longer learning, from its first one.

    >>> limit(9.2) == 100 * 9.2, limit(0.003)
    (True, 100.0)
    """
    return TIMES_FIRST * max(first, LEAST_SCALE)


def strayed_for(loss: float, first: float, before: int) -> int:
    """How far a run has strayed: one more with each loss out of range, one less with each in it, at least 0.

    One good loss does not take back a row of bad ones: in a batch of few it may be luck.

    >>> strayed_for(1e6, first=9.2, before=3), strayed_for(8.0, first=9.2, before=3)
    (4, 2)
    """
    return before + 1 if loss > limit(first) else max(before - 1, 0)


def check_step(loss: float, norm: float, first: float, strayed: int, step: int) -> None:
    """Raise Diverged where a training step shows that the run cannot go on.

    Args:
        loss: of the step.
        norm: of its gradient, before it was clipped.
        first: the loss of the run's first step.
        strayed: from `strayed_for`.
        step: counted from 1.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)) or strayed >= STEPS:
        raise Diverged(
            f"the loss is {loss:.4g} and the gradient norm {norm:.4g} at step {step}, so training has diverged"
            f"{_rule(first)}"
        )


def check_evaluation(loss: float, first: float | None, split: str) -> None:
    """The same for the mean loss of a whole split, where once is enough; `first` is None where nobody knows it."""
    first = math.inf if first is None else first
    if not loss <= limit(first):
        raise Diverged(f"the loss on the {split} split is {loss:.4g}, so training has diverged{_rule(first)}")


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest magnitude; infinite where a number is not finite.

    >>> import torch
    >>> largest([torch.tensor([1.0, -3.0]), torch.tensor(2)]), largest([torch.tensor([0.0, math.nan])])
    (3.0, inf)
    """
    found = [float(t.detach().abs().max()) for t in tensors if t.numel()]
    return max((math.inf if math.isnan(value) else value for value in found), default=0.0)


def have_exploded(now: Iterable[Tensor], before: Iterable[Tensor]) -> bool:
    """Whether weights are out of all proportion to those that a loss had vouched for."""
    return not largest(now) <= TIMES_FIRST * max(largest(before), LEAST_SCALE)


def _rule(first: float) -> str:
    return (
        f" (neither may be NaN or infinite, nor the loss stay above {limit(first):.4g}); the state before is kept. "
        "Train again with a lower optimizer.lr or clip."
    )
