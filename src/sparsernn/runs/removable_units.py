"""Which units of a run can go: decided by every set of its weights that is still in use."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from sparsernn.deploy.dead_units import dead_units, removable, weak_units
from sparsernn.deploy.shrink import Compaction, cut_down, units_of
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.run import Run, load_weights, weights
from sparsernn.structure.units import Units


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        criterion: one of `deploy.dead.CRITERIA`.
        tol: units whose norm is below it are removed although that may change the outputs; 0: none.
        data_dir: where the data lie; None leaves them where they were.
        repeats: timed rounds of the latency; 0 measures none.
    """

    criterion: str = "any"
    tol: float = 0.0
    data_dir: Path | None = None
    repeats: int = 9


def dead_in_run(original: Run, settings: Settings) -> tuple[list[Tensor], list[Tensor]]:
    """The units to remove, and those that are not 0 but weak; leaves the best weights in the model."""
    units = units_of(original.model)
    in_use = _weights_in_use(original)
    take_best(original)
    best, weak = _copied(original), weak_units(units, settings.tol)
    found = None
    for one in (best, *in_use):
        load_weights(original.model, one, original.home)
        dead = _without(units, weak, settings.criterion)
        found = dead if found is None else [a & b for a, b in zip(found, dead, strict=True)]
    load_weights(original.model, best, original.home)
    return removable(units, found or []), weak


def _without(units: Sequence[Units], weak: Sequence[Tensor], criterion: str) -> list[Tensor]:
    """Dead units once the weak ones are 0; weights are changed."""
    for group, found in zip(units, weak, strict=True):
        group.zero(found.nonzero().squeeze(1))
    return dead_units(units, criterion)


def _weights_in_use(run: Run) -> list[dict[str, Tensor]]:
    """What training goes on from: nothing where it has ended, else the last weights, and their averages."""
    if ended(run):
        return []
    sets = [_copied(run)]
    if run.optimizer.averaging:
        with run.optimizer.averaged():
            sets.append(_copied(run))
    return sets


def ended(run: Run) -> bool:
    """Whether training is over: the best weights have been tested."""
    return run.events.knows("test")


def _copied(run: Run) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights(run.model).items()}


def smaller(
    model: nn.Module, gone: Sequence[Tensor], weak: Sequence[Tensor]
) -> tuple[nn.Module, Compaction | None]:
    """A copy of the model without the units `gone`; None where there are none."""
    after: nn.Module = copy.deepcopy(model)
    units = units_of(after)
    for group, found in zip(units, weak, strict=True):
        group.zero(found.nonzero().squeeze(1))
    if not any(bool(found.any()) for found in gone):
        return after, None
    return after, cut_down(after, units, gone, weak)
