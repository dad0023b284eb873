"""What the epochs of a run differ in: source of the gradient and cycle of the learning rate, side by side."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from sparsernn.core.plain import Json


def phase_rows(
    sources: Sequence[Mapping[str, Json]], cycles: Sequence[tuple[int, int]], epochs: int
) -> list[dict[str, Json]]:
    """Epochs in a row that have both in common.

    Args:
        sources: {"first", "last", "source"} of each phase of the boundary; none where there is but one way.
        cycles: first and last epoch of each cycle of the learning rate; none without restarts.
        epochs: of the run.

    Returns:
        [{"first", "last", "source" or None, "cycle": [first, last] or None}]; [] where nothing ever changes.

    Example:
        >>> for row in phase_rows([{"first": 1, "last": 1, "source": "real"},
        ...                        {"first": 2, "last": 4, "source": "synthetic"}], [(1, 2), (3, 4)], 4):
        ...     print(row)
        {'first': 1, 'last': 1, 'source': 'real', 'cycle': [1, 2]}
        {'first': 2, 'last': 2, 'source': 'synthetic', 'cycle': [1, 2]}
        {'first': 3, 'last': 4, 'source': 'synthetic', 'cycle': [3, 4]}
    """
    if not sources and not cycles:
        return []
    firsts = {1, *(row["first"] for row in sources), *(first for first, _ in cycles)}
    borders = [*sorted(first for first in firsts if first <= epochs), epochs + 1]
    return [
        {"first": a, "last": b - 1, "source": _source(sources, a), "cycle": _cycle(cycles, a)}
        for a, b in pairwise(borders)
    ]


def _source(sources: Sequence[Mapping[str, Json]], epoch: int) -> str | None:
    return next((str(row["source"]) for row in sources if row["first"] <= epoch <= row["last"]), None)


def _cycle(cycles: Sequence[tuple[int, int]], epoch: int) -> list[int] | None:
    return next(([first, last] for first, last in cycles if first <= epoch <= last), None)
