"""Where the parts of predefined-sparse layers lie: pure functions of whole numbers and fractions.

Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models", 2018,
arXiv:1808.08720.
Differs from the original: borders come from exact fractions, where rounded ones let neighbouring output slices
overlap (400 units in 6 parts put out 401 features); strips of an embedding never grow taller from left to right nor
taller than the vocabulary; a closed form is offered beside the original's step-by-step division.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Density, Entries, Size
from sparsernn.core.plain import Json

FINEST = 10**6
"""Settings are read as fractions with at most this denominator: 0.66666 is 33333/50000 and 0.3333333333 a third."""


def exact(value: float | Fraction) -> Fraction:
    """The fraction that a setting means.

    >>> exact(0.1), exact(1 / 3)
    (Fraction(1, 10), Fraction(1, 3))
    """
    return value if isinstance(value, Fraction) else Fraction(value).limit_denominator(FINEST)


def spans(total: int, parts: int) -> tuple[range, ...]:
    """0 .. total cut into `parts` neighbouring ranges whose lengths differ by at most 1.

    >>> spans(7, 3)
    (range(0, 2), range(2, 4), range(4, 7))
    """
    return tuple(range(k * total // parts, (k + 1) * total // parts) for k in range(parts))


def windows(total: int, parts: int, density: Fraction) -> tuple[range, ...]:
    """`parts` ranges of about density x total, evenly spread from the left edge to the right one.

    They cover 0 .. total and overlap where density > 1 / parts, which is the least that is possible.

    >>> windows(8, 2, Fraction(3, 4))
    (range(0, 6), range(2, 8))
    """
    length = total * density
    step = (total - length) / max(parts - 1, 1)
    return tuple(range(math.floor(k * step), math.floor(k * step + length)) for k in range(parts))


def composition(
    inputs: int,
    hidden: int,
    blocks: int | None,
    density: float | None,
    reduce: Sequence[float] | None,
) -> tuple[int, Fraction]:
    """Number of components and input density that the settings of a `BlockLSTM` ask for.

    >>> composition(8, 6, 2, 0.75, None), composition(8, 6, 3, None, None)
    ((2, Fraction(3, 4)), (3, Fraction(1, 1)))
    """
    if reduce is not None:
        if blocks is not None or density is not None:
            raise InputError(f"reduce is {reduce!r} beside blocks or density; set one or the other.")
        return reduced_blocks(inputs, hidden, reduce)
    if blocks is None:
        if density is not None:
            raise InputError(f"density is {density} without blocks; set both.")
        blocks, density = min(2, inputs, hidden), 0.75 if min(inputs, hidden) > 1 else 1.0
    return check_blocks(inputs, hidden, blocks, 1.0 if density is None else density)


def check_blocks(inputs: int, hidden: int, blocks: int, density: float | Fraction) -> tuple[int, Fraction]:
    """Number of components and input density as asked for, refused where no layer has them.

    Args:
        inputs: I.
        hidden: H.
        blocks: k components, from 1 to the smaller of I and H.
        density: part of the inputs that a component reads, in [1 / k, 1].

    Raises:
        InputError: outside those ranges.
    """
    check_value("blocks", blocks, Size)
    if blocks > min(inputs, hidden):
        raise InputError(
            f"blocks is {blocks}; it must be at most {min(inputs, hidden)}, the smaller of input_size {inputs} and "
            f"hidden_size {hidden}."
        )
    part = exact(density)
    if not Fraction(1, blocks) <= part <= 1:
        raise InputError(f"density is {density}; with {blocks} blocks it must lie in [1/{blocks}, 1].")
    return blocks, part


def reduced_blocks(inputs: int, hidden: int, reduce: Sequence[float]) -> tuple[int, Fraction]:
    """Number of components and input density whose parameters are as many as those of a smaller dense LSTM.

    With a, b = reduce, the smaller LSTM has a I inputs and b H units. Among the feasible numbers of components the
    least is taken, so recurrent blocks are as large as can be. The density is capped at 1, where the layer stays
    below the budget; no other number of components comes nearer to it.

    Args:
        inputs: I.
        hidden: H.
        reduce: a and b, each in (0, 1].

    Returns:
        k and delta.

    Raises:
        InputError: fractions outside (0, 1], or so small that no layer of these sizes fits.

    Example:
        >>> reduced_blocks(40, 60, (0.5, 0.5))
        (5, Fraction(3, 10))
    """
    a, b = _fractions(reduce)
    budget = a * b * inputs + b * b * hidden + 2 * b - 2
    blocks = math.ceil((inputs + hidden) / budget) if budget > 0 else hidden + 1
    if blocks > hidden or (blocks >= inputs and blocks > 1):
        raise InputError(
            f"reduce is {list(reduce)}; a layer {inputs} -> {hidden} cannot be made that small, so larger fractions "
            "are needed."
        )
    return blocks, min((budget - Fraction(hidden, blocks)) / inputs, Fraction(1))


def _fractions(reduce: Sequence[float]) -> tuple[Fraction, Fraction]:
    check_value("reduce", reduce, Annotated[Sequence[Density], Entries(2, 2)])
    return exact(reduce[0]), exact(reduce[1])


Strips = tuple[tuple[int, ...], tuple[int, ...]]
"""Widths and heights of an embedding's strips, from the left."""


def geometric_strips(words: int, width: int, blocks: int, density: float | Fraction) -> Strips:
    """Strips of nearly equal width whose heights fall by a constant factor.

    The factor solves density = sum_b width_b factor^b / width. Rounding is settled on the last strips, so that less
    than one row of a strip is missing from floor(words x width x density).

    Args:
        words: V.
        width: D, the sum of the widths.
        blocks: number of strips, at most D.
        density: part of V x D that exists.

    Example:
        >>> geometric_strips(10, 4, 2, 0.75)
        ((2, 2), (10, 5))
    """
    widths = tuple(len(span) for span in spans(width, blocks))
    part = exact(density)
    factor = _root(lambda a: sum(w * a**b for b, w in enumerate(widths)) / width, float(part))
    rows = [round(words * factor**b) for b in range(blocks)]
    return widths, _settled(words, rows, widths, math.floor(words * width * part))


def _settled(words: int, rows: list[int], widths: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Heights changed as little as possible, the last first, to hold `budget` weights; they never rise."""
    for b in reversed(range(1, len(rows))):
        missing = budget - sum(r * w for r, w in zip(rows, widths, strict=True))
        least = rows[b + 1] if b + 1 < len(rows) else 0
        rows[b] = min(max(rows[b] + missing // widths[b], least), rows[b - 1])
    assert rows[0] == words
    return tuple(rows)


def greedy_strips(words: int, width: int, blocks: int, density: float | Fraction) -> Strips:
    """The original's division: each strip is cut as if the rest had one factor; the last takes what is left.

    All strips but the last are width // blocks wide. Arguments as in `geometric_strips`.

    Example:
        >>> greedy_strips(10, 4, 4, 0.5)
        ((1, 1, 1, 1), (10, 5, 3, 2))
    """
    step, part = width // blocks, exact(density)
    widths = (step,) * (blocks - 1) + (width - step * (blocks - 1),)
    rows, budget = [words], words * width * part
    rest, ratio = width, part
    for b in range(1, blocks - 1):
        factor = _mean_power(blocks - b + 1, float(ratio))
        rest -= step
        rows.append(rows[-1] - math.ceil(rows[-1] * (1 - factor)))
        area = rows[-1] * rest
        ratio = (
            max(min(Fraction(1), (budget - step * sum(rows[:-1])) / area), Fraction(0))
            if area
            else Fraction(0)
        )
    if blocks > 1:
        left = max(0, math.floor(budget) - step * sum(rows))
        rows.append(min(round(Fraction(left, widths[-1])), rows[-1]))
    return widths, tuple(rows)


def _mean_power(blocks: int, mean: float) -> float:
    """The factor in [0, 1] whose powers 0 .. blocks - 1 have that mean."""
    return _root(lambda a: sum(a**m for m in range(blocks)) / blocks, mean)


def _root(rising: Callable[[float], float], value: float) -> float:
    """Where a function that rises on [0, 1] takes `value`; the nearer end where it does not."""
    if value >= rising(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):  # to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high


STRIPS: dict[str, Callable[[int, int, int, float], Strips]] = {
    "geometric": geometric_strips,
    "greedy": greedy_strips,
}


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
        wanted: Json = blocks  # a number, or refused
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


def is_arranged(
    found: Components,
    inputs: int,
    hidden: int,
    blocks: int | Listed | None,
    density: float | None,
    reduce: Sequence[float] | None,
) -> bool:
    """Whether components lie as `arrangement` makes them of these settings, if it makes any.

    >>> is_arranged(arrangement(8, 5, 2, 0.75, None), 8, 5, 2, 0.75, None), is_arranged(((), ()), 8, 5, 9, None, None)
    (True, False)
    """
    try:
        return arrangement(inputs, hidden, blocks, density, reduce) == found
    except InputError:
        return False


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


def _rows_of(listed: object, length: int) -> bool:
    """Whether it is a list of lists of so many whole numbers of at least 0."""
    if not isinstance(listed, list | tuple):
        return False
    rows = bool(listed) and all(isinstance(row, list | tuple) and len(row) == length for row in listed)
    return rows and all(type(number) is int and number >= 0 for row in listed for number in row)
