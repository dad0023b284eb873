"""Learning rates: schedules that may listen to the validation loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Count, Density, NonNegative, Positive, Rising, Size
from sparsernn.core.plain import Json
from sparsernn.optim.restarts import Base, Restarts
from sparsernn.optim.schedules import SCHEDULES, Schedule, make_schedule

Epochs = Annotated[Sequence[Size], Rising()]


class LearningRate:
    """A function of the step that listens to nothing: the null member.

    Args:
        schedule: step -> learning rate.

    Example:
        >>> rate = LearningRate(lambda step: 0.5)
        >>> rate.observe(3.0)
        >>> rate(10)
        0.5
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self._schedule(step)

    def observe(self, loss: float) -> None:
        """Hear an epoch's validation loss."""

    def cycles(self, epochs: int) -> list[tuple[int, int]]:
        """First and last epoch, counted from 1, of each cycle between restarts; [] where there are none."""
        return []

    def state_dict(self) -> dict[str, Json]:
        """What was learnt from the losses: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Nothing to take up."""


class Plateau(LearningRate):
    """Multiplied by `factor` after an epoch whose validation loss is not below the lowest one so far.

    Args:
        start: learning rate of the first epoch, above 0.
        factor: above 0 and at most 1.
        patience: epochs without a new lowest loss that are let pass first, at least 0; counted anew after a cut.
        end: the learning rate does not fall below this, at least 0.

    Example:
        >>> rate = Plateau(start=1.0)
        >>> for loss in (5.0, 4.0, 4.0, 3.0, 3.5):
        ...     rate.observe(loss)
        >>> rate(0)
        0.25
    """

    @checked
    def __init__(
        self, start: float, factor: Density = 0.5, patience: Count = 0, end: NonNegative = 0.0
    ) -> None:
        super().__init__(lambda step: self.rate)
        self.rate, self.factor, self.patience, self.end = float(start), factor, patience, end
        self.best, self.waited = math.inf, 0

    def observe(self, loss: float) -> None:
        """Cut the learning rate if this epoch's loss says so; a loss that is not a number is no new lowest one."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.rate, self.waited = max(self.rate * self.factor, min(self.end, self.rate)), 0

    def state_dict(self) -> dict[str, Json]:
        """The rate, the lowest loss and the epochs waited since."""
        return {"rate": self.rate, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from what `state_dict` returned."""
        self.rate, self.best, self.waited = state["rate"], state["best"], state["waited"]


class ByEpoch(LearningRate):
    """A rate that depends on the epoch alone; subclasses say which, in `rate`.

    Attributes:
        epoch: the one that is going on, counted from 1.
    """

    def __init__(self) -> None:
        super().__init__(lambda step: self.rate(self.epoch))
        self.epoch = 1

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        raise NotImplementedError

    def observe(self, loss: float) -> None:
        """An epoch is over."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Json]:
        """The epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from what `state_dict` returned."""
        self.epoch = state["epoch"]


class CosineRestarts(ByEpoch):
    """Half a cosine from `start` towards `end` in each cycle; constant inside an epoch.

    In the t-th epoch of a cycle of n, counted from 0: end + (start - end) (1 + cos(pi t / n)) / 2. Only the learning
    rate begins anew; the optimizer's moments stay. Where windows have random lengths it is multiplied by theirs.

    Args:
        start: learning rate at each restart, above 0.
        base: where the restarts lie, see `Restarts`.
        end: what the cosine falls to, at least 0.

    Raises:
        InputError: a number out of range.

    Source: F. Shang and H. Zhang, "Alternating Synthetic and Real Gradients for Neural Language Modeling", 2019,
    arXiv:1902.10630.
    Differs from the original: lists that do not double keep their cycles (there the rate jumps in between), and after
    the last epoch of a list the rate stays what it was there (there the run breaks off).

    Example:
        >>> rate = CosineRestarts(start=1.0, base=2)
        >>> for epoch in range(1, 6):
        ...     print(epoch, round(rate(0), 3))
        ...     rate.observe(0.0)
        1 1.0
        2 0.5
        3 1.0
        4 0.5
        5 1.0
    """

    @checked
    def __init__(self, start: Positive, base: Base, end: NonNegative = 0.0) -> None:
        if end > start:
            raise InputError(
                f"the end of a schedule with restarts is {end!r}; it must be from 0 to its start."
            )
        super().__init__()
        self.start, self.end, self.restarts = float(start), float(end), Restarts(base)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        first, last = self.restarts.cycle(epoch)
        length = last - first + 1
        t = min(epoch - first, length - 1)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t / length)) / 2

    def cycles(self, epochs: int) -> list[tuple[int, int]]:
        """First and last epoch of each cycle."""
        return self.restarts.cycles(epochs)


class EpochDecay(ByEpoch):
    """Constant for some epochs, then divided, and again after each `every` epochs.

    In epoch e, counted from 1: start / divide_by^n with n = ceil(max(e - constant, 0) / every).

    Args:
        start: learning rate of the first epochs, above 0.
        divide_by: above 0.
        constant: epochs before the first division, at least 0.
        every: epochs between two divisions, at least 1.

    Source: W. Zaremba, I. Sutskever and O. Vinyals, "Recurrent Neural Network Regularization", 2014, arXiv:1409.2329
    (divided each epoch after some); W. Wen et al., 2018, arXiv:1709.05027 (by 10, after each third of the run).

    Example:
        >>> rate = EpochDecay(start=1.0, divide_by=2.0, constant=2)
        >>> for epoch in range(1, 5):
        ...     print(epoch, rate(0))
        ...     rate.observe(0.0)
        1 1.0
        2 1.0
        3 0.5
        4 0.25
    """

    @checked
    def __init__(self, start: Positive, divide_by: Positive, constant: Count = 1, every: Size = 1) -> None:
        super().__init__()
        self.start, self.divide_by = float(start), float(divide_by)
        self.constant, self.every = constant, every

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        divisions = -(-max(epoch - self.constant, 0) // self.every)
        return self.start / self.divide_by**divisions


class Milestones(ByEpoch):
    """Multiplied by `factor` after each of the epochs that are named.

    Args:
        start: learning rate of the first epoch, above 0.
        epochs: whole numbers from 1 that rise; the epochs after them have the lower rate.
        factor: above 0 and at most 1.

    Raises:
        InputError: a number out of range, or epochs that do not rise.

    Example:
        >>> rate = Milestones(start=1.0, epochs=[1, 3])
        >>> for epoch in range(1, 5):
        ...     print(epoch, round(rate(0), 4))
        ...     rate.observe(2.5)
        1 1.0
        2 0.1
        3 0.1
        4 0.01
    """

    @checked
    def __init__(self, start: Positive, epochs: Epochs, factor: Density = 0.1) -> None:
        super().__init__()
        self.start, self.epochs, self.factor = start, tuple(epochs), factor

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.start * self.factor ** sum(epoch > e for e in self.epochs)


LEARNING_RATES: dict[str, Callable[..., Schedule]] = {
    **SCHEDULES,
    "plateau": Plateau,
    "milestones": Milestones,
    "restarts": CosineRestarts,
    "epoch_decay": EpochDecay,
}


def make_learning_rate(spec: float | str | Mapping[str, Json], steps: int) -> LearningRate:
    """As `make_schedule`, with "plateau" and "restarts" among the names.

    >>> make_learning_rate({"name": "plateau", "start": 2.0}, steps=100)(0)
    2.0
    """
    made = make_schedule(spec, steps, LEARNING_RATES)
    return made if isinstance(made, LearningRate) else LearningRate(made)
