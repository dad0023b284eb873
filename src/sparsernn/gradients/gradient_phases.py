"""Which epochs train with the real gradient alone and which with the synthetic one too, decided before the first."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from sparsernn.core.checks import checked
from sparsernn.core.limits import Size
from sparsernn.core.plain import Json

Source = Literal["real", "synthetic"]
SOURCES: tuple[Source, Source] = ("real", "synthetic")


@dataclass(frozen=True)
class Phase:
    """Epochs in a row with one source of gradient.

    Attributes:
        first, last: its first and its last epoch, counted from 1.
        source: "real" (truncated backpropagation) or "synthetic" (what follows the window is estimated too).
    """

    first: int
    last: int
    source: str


class PhaseSchedule:
    """The phases of a run, computed up front.

    Args:
        epochs: of the run, at least 1.
        start: source of the first epoch, "real" or "synthetic".
        toggles: epochs from which on the other source is used; one that is named twice changes nothing.

    Raises:
        InputError: another source, or an epoch that is not a whole number of at least 1.

    Example:
        >>> print(PhaseSchedule(320, "real", [161]))
        epochs 1-160 real, 161-320 synthetic
        >>> PhaseSchedule(20, "real", [2, 6, 11]).phases[1]
        Phase(first=2, last=5, source='synthetic')
    """

    @checked
    def __init__(self, epochs: Size, start: Source, toggles: Sequence[Size] = ()) -> None:
        odd = sorted(e for e in set(toggles) if toggles.count(e) % 2 and e <= epochs)
        side = SOURCES.index(start) + (1 in odd)
        borders = [1, *(e for e in odd if e > 1), epochs + 1]
        self.phases = tuple(
            Phase(first, after - 1, SOURCES[(side + number) % 2])
            for number, (first, after) in enumerate(pairwise(borders))
        )

    def source(self, epoch: int) -> str:
        """The source of an epoch, counted from 1; after the last one, the last one's."""
        return next((p.source for p in self.phases if p.first <= epoch <= p.last), self.phases[-1].source)

    def begins(self, epoch: int) -> bool:
        """Whether a phase begins with this epoch."""
        return any(phase.first == epoch for phase in self.phases)

    def plain(self) -> list[dict[str, Json]]:
        """The phases as plain data, for the plan of a run."""
        return [asdict(phase) for phase in self.phases]

    def __str__(self) -> str:
        """The phases in words."""
        return "epochs " + ", ".join(f"{p.first}-{p.last} {p.source}" for p in self.phases)
