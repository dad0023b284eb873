"""How many: whole numbers that always add up.

Densities become exact counts, a fraction becomes the number of weights to prune, and a total is shared
between tensors or gates without ever exceeding what they can take.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def water_fill(total: int, shares: Sequence[float], capacities: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `shares`; nobody gets more than its capacity, nothing is lost.

    What a full vessel cannot take is poured, in the same proportions, into the others (those with share 0
    come last). Fractions are rounded by largest remainder, the first one winning ties.

    Args:
        total: whole number to split; cut to the sum of the capacities.
        shares: non-negative weights, of any scale.
        capacities: the most each may get.

    Returns:
        Whole numbers that sum exactly to `total`.

    Example:
        >>> water_fill(10, [1, 1, 2], [10, 1, 10])
        [3, 1, 6]
    """
    room = np.asarray(capacities, dtype=np.float64)
    total = min(total, int(room.sum()))
    weights = np.nan_to_num(np.asarray(shares, dtype=np.float64), posinf=0.0).clip(min=0.0)
    filled = _pour(float(total), weights, room)
    filled = _pour(total - filled.sum(), np.ones_like(room), room - filled) + filled
    return _round(total, filled, room)


def _pour(total: float, weights: Numbers, room: Numbers) -> Numbers:
    """Real-valued water-filling; what does not fit into vessels of positive weight is left over."""
    level = np.zeros_like(room)
    open_ = (weights > 0) & (room > 0)
    while total > 0 and open_.any():
        wanted = np.where(open_, weights, 0.0)
        wanted /= wanted.max()  # first, so that tiny weights do not overflow
        wanted *= total / wanted.sum()
        full = open_ & (wanted >= room)
        if not full.any():
            return level + wanted
        level[full] = room[full]
        total -= room[full].sum()
        open_ &= ~full
    return level


def _round(total: int, filled: Numbers, room: Numbers) -> list[int]:
    whole = np.minimum(np.floor(filled + 1e-9), room).astype(np.int64)
    while (missing := total - int(whole.sum())) > 0:
        remainders = np.where(whole < room, filled - whole, -np.inf)
        best = np.argsort(-remainders, kind="stable")[:missing]
        whole[best[whole[best] < room[best]]] += 1
    return [int(n) for n in whole]


def share_of(fraction: float, count: int) -> int:
    """The smallest whole number that is at least `fraction` of `count`, forgiving rounding noise.

    >>> share_of(0.5, 5), share_of(0.1, 30)
    (3, 3)
    """
    return min(count, math.ceil(fraction * count - 1e-9))


def uniform_counts(densities: Sequence[float], shapes: Sequence[Sequence[int]]) -> list[int]:
    """Every tensor at its own density, to less than one weight, and the total round(sum_l density_l * numel_l).

    >>> uniform_counts([0.33, 0.33], [(10, 10), (3, 5)])
    [33, 5]
    >>> uniform_counts([0.3, 0.3], [(2, 4), (2, 4)])
    [3, 2]
    """
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.float64)
    wanted = np.asarray(densities, dtype=np.float64) * sizes
    return _round(round(math.fsum(wanted)), wanted, sizes)


def erdos_renyi_counts(
    densities: Sequence[float], shapes: Sequence[Sequence[int]], cells: Sequence[int] | None = None
) -> list[int]:
    r"""Density of a tensor proportional to the sum of its sides over their product, and the total kept exact.

    n_l = eps * (r_l + c_l), with eps such that the n_l sum to round(sum_l density_l * r_l * c_l). A tensor
    that would need more weights than it has becomes dense, and eps is found again for the others. Where `cells`
    says how many blocks each tensor has, the counts, and what is exact, are blocks.

    Source: D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
        connectivity
    inspired by network science", 2018, arXiv:1707.04780; the cap is that of U. Evci et al., "Rigging the
    Lottery", 2020, arXiv:1911.11134.

    Differs from the original: exact counts instead of coin flips; a probability above 1 is redistributed.

    >>> erdos_renyi_counts([0.5, 0.5], [(10, 10), (2, 2)])
    [48, 4]
    """
    sizes = [math.prod(shape) for shape in shapes] if cells is None else list(cells)
    total = round(math.fsum(d * n for d, n in zip(densities, sizes, strict=True)))
    return water_fill(total, [float(sum(shape)) for shape in shapes], sizes)


def update_tau(tau: float, removed: int, expected: int) -> float:
    """The adaptive threshold of DSR: doubled after removing too few, halved after too many (2 % tolerance).

    Source: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by
        dynamic
    sparse reparameterization", 2019, arXiv:1902.05967.

    >>> update_tau(0.001, removed=10, expected=100), update_tau(0.001, removed=99, expected=100)
    (0.002, 0.001)
    """
    if removed < 0.98 * expected:
        return tau * 2
    return tau / 2 if removed > 1.02 * expected else tau
