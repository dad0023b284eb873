"""From values to positions: linear and logarithmic scales with round tick values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PAD = 0.06  # room above and below the curves, as a part of their range
NICE = (1.0, 2.0, 2.5, 5.0, 10.0)  # tick distances that people read easily


@dataclass(frozen=True)
class Scale:
    """A range of values, drawn over 0..100 percent.

    Example:
        >>> scale = Scale(0.0, 50.0)
        >>> scale(25), scale.up(25), [text for _, text in scale.ticks()]
        (50.0, 0.5, ['0', '10', '20', '30', '40', '50'])
    """

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position in percent from the left."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 100.0 * (at - low) / (high - low)

    def up(self, value: float) -> float:
        """Position from the top as a part of the height, as SVG counts."""
        return 1.0 - self(value) / 100.0

    def ticks(self, most: int = 6, counts: bool = False) -> list[tuple[float, str]]:
        """Round values inside the range, about `most`, with their labels; whole ones where it `counts`."""
        values = self._log_ticks(most) if self.log else linear_ticks(self.low, self.high, most)
        if counts:
            values = [value for value in values if value == round(value)]
        step = min(
            (b - a for a, b in pairwise(values)), default=abs(values[0]) if values and values[0] else 1.0
        )
        return [(value, label(value, step)) for value in values]

    def _log_ticks(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for multiples in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            values = [m * 10.0**p for p in powers for m in multiples if self.low <= m * 10.0**p <= self.high]
            if 3 <= len(values) <= most:
                return values
        return (
            linear_ticks(self.low, self.high, most)
            if self.high < 20 * self.low
            else values[:: -(-len(values) // most)]
        )


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of a round distance between `low` and `high`.

    >>> linear_ticks(0.0, 1.0, 6)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in NICE if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """A tick's text: no more decimals than the distance between ticks needs, large numbers with k and M.

    >>> label(0.30000000000000004, 0.1), label(50000.0, 10000.0), label(2.5e6, 5e5), label(0.00025, 0.00005)
    ('0.3', '50k', '2.5M', '2.5e-04')
    """
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    if value and abs(value) < 1e-3:
        return minus(f"{value:.1e}")
    decimals = min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
    if step and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return minus(f"{value:.{decimals}f}")


def minus(text: str) -> str:
    """A number's text with a typographic minus sign; exponents keep the short one.

    >>> minus("-0.5")
    '−0.5'
    """
    return f"−{text[1:]}" if text.startswith("-") else text


def scale_for(
    values: Sequence[float],
    *,
    log: bool = False,
    padded: bool = False,
    floor: float | None = None,
    least: float = 0.0,
) -> Scale:
    """The scale that shows all `values` (finite, at least one).

    Args:
        log: logarithmic, where all values are positive; else linear.
        padded: leave room at both ends.
        floor: never start below this value (0.0 for counts and rates).
        least: show at least so wide a range, so that rounding does not look like change.

    Example:
        >>> scale_for([3.0, 3.0])
        Scale(low=2.5, high=3.5, log=False)
    """
    low, high = min(values), max(values)
    if log and low > 0:
        room = max((high / low) ** PAD, 1.02) if padded else 1.0
        low, high = low / room, high * room
        return Scale(low, high if high > low else low * 1.1, log=True)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    if high - low <= 1e-12 * max(1.0, abs(high)):
        low, high = (low - 0.5, high + 0.5) if floor is None else (floor, high + 0.5 * (abs(high) or 1.0))
    elif padded:
        room = PAD * (high - low)
        low, high = low - room, high + room
    return Scale(low if floor is None else max(floor, low), high)
