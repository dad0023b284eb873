"""Parts of predefined-sparse layers said one by one: what a rule gave, until units were removed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sparsernn.errors import InputError
from sparsernn.nn.block_geometry import Strips, composition, spans, windows

Components = tuple[tuple[range, ...], tuple[int, ...]]
"""The window of every component of a `BlockLSTM`, and how many hidden units it has."""

Listed = Sequence[Sequence[int]]
"""Parts said one by one instead of by a rule: numbers for each."""


def arrangement(
    inputs: int,
    hidden: int,
    blocks: int | Listed | None,
    density: float | None,
    reduce: Sequence[float] | None,
) -> Components:
    """Where the components of a `BlockLSTM` lie, by `composition` or as `blocks` lists them.

    Args:
        inputs: I.
        hidden: H.
        blocks: see `composition`; or for each component its hidden units, the first input of its window and the one
            after its last.
        density: see `composition`; not beside a list.
        reduce: likewise.

    Raises:
        InputError: settings of two kinds, or components that do not make up a layer of these sizes.

    Example:
        >>> arrangement(8, 5, 2, 0.75, None) == arrangement(8, 5, [[2, 0, 6], [3, 2, 8]], None, None)
        True
    """
    if not isinstance(blocks, list | tuple):
        wanted: Any = blocks  # a number, or refused
        count, part = composition(inputs, hidden, wanted, density, reduce)
        return windows(inputs, count, part), tuple(len(span) for span in spans(hidden, count))
    if density is not None or reduce is not None:
        raise InputError("blocks lists the components beside density or reduce; set one or the other.")
    if not _make_up(blocks, inputs, hidden):
        raise InputError(
            f"blocks is {list(blocks)!r}; a list must have [units, first input, input after the last] for each "
            f"component, {hidden} units in all and 1 at least, with windows that go from 0 to {inputs} without a gap."
        )
    return tuple(range(start, stop) for _, start, stop in blocks), tuple(units for units, *_ in blocks)


def listed_strips(words: int, width: int, blocks: Listed) -> Strips:
    """Strips said one by one, [width, height] each.

    Raises:
        InputError: they do not make up a table of these sizes.

    Example:
        >>> listed_strips(10, 4, [[1, 10], [3, 5]])
        ((1, 3), (10, 5))
    """
    fits = _rows_of(blocks, 2) and blocks[0][1] == words and sum(row[0] for row in blocks) == width
    if not fits or any(lower > higher for (_, higher), (_, lower) in pairwise(blocks)):
        raise InputError(
            f"blocks is {list(blocks)!r}; a list must have [width, height] for each strip, {width} wide in all, the "
            f"first {words} high and none higher than the one before it."
        )
    return tuple(row[0] for row in blocks), tuple(row[1] for row in blocks)


def _make_up(listed: Listed, inputs: int, hidden: int) -> bool:
    """Whether these are the components of a layer: windows move from the left edge to the right one."""
    if not _rows_of(listed, 3):
        return False
    borders = [(0, 0), *((start, stop) for _, start, stop in listed)]
    rising = all(a <= c <= b <= d for (a, b), (c, d) in pairwise(borders))
    units = [row[0] for row in listed]
    return rising and borders[-1][1] == inputs and sum(units) == hidden and min(units) > 0


def _rows_of(listed: Any, length: int) -> bool:
    """Whether it is a list of lists of so many whole numbers of at least 0."""
    rows = bool(listed) and all(isinstance(row, list | tuple) and len(row) == length for row in listed)
    return rows and all(type(number) is int and number >= 0 for row in listed for number in row)
