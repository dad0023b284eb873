"""Exact choice of positions among millions of weights: by lot, or by magnitude.

Every function works on a *pool*: a list of tensors (the parts) that compete for one budget, with a bool
tensor of the same shape for each that says which positions may be chosen. Parts live on the CPU and are
contiguous. Randomness comes from the generator that is passed in, never from torch's global one.

Two observations make this fast (a mask update of 66 million weights in a fraction of a second on two cores):
a lot needs one random *byte* for each position, not one random float, because the few positions that share
the decisive byte can be drawn in a second, tiny round; and the k-th smallest value can be bracketed from a
sample, so that only about one value in a hundred has to be looked at exactly.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.floating]

# Elements handled at a time: 2 MiB of floats, which stay in the second-level cache of current processors.
CHUNK = 1 << 19
# Below this many eligible positions a list of their indices is cheaper than a byte for every position.
FEW = 1 << 16
# Values sampled to bracket a k-th smallest value; the bracket then holds about 8 / sqrt(SAMPLE) of the
# values.
SAMPLE = 1 << 17


def count_true(masks: Sequence[Tensor]) -> int:
    """How many positions are True in all parts together.

    >>> count_true([torch.tensor([True, False]), torch.tensor([True])])
    2
    """
    return sum(int(mask.count_nonzero()) for mask in masks)


def lottery(eligible: Sequence[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Choose `count` eligible positions; every subset of that size is equally likely.

    Args:
        eligible: bool tensors of any shapes, the parts of one pool.
        count: how many to choose; at most all eligible positions are.
        generator: the only source of randomness.

    Returns:
        Bool tensors of the shapes of `eligible`, True where chosen.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> chosen = lottery([torch.tensor([True, True, False, True])], 2, generator)[0]
        >>> int(chosen.sum()), bool(chosen[2])
        (2, False)
    """
    total = count_true(eligible)
    if count <= 0:
        return [torch.zeros_like(part) for part in eligible]
    if count >= total:
        return [part.clone() for part in eligible]
    if total <= FEW:
        return _draw(eligible, count, generator)
    keys = [_random_bytes(part, generator) for part in eligible]
    reached = _histogram(keys, total).cumsum(0)
    level = int(torch.searchsorted(reached, count))
    chosen = [key < level for key in keys]
    ties = [(key == level) & part for key, part in zip(keys, eligible, strict=True)]
    needed = count - (int(reached[level - 1]) if level else 0)
    return _union(chosen, _draw(ties, needed, generator))


def by_magnitude(
    values: Sequence[Tensor],
    eligible: Sequence[Tensor],
    count: int,
    generator: torch.Generator,
    *,
    largest: bool,
) -> list[Tensor]:
    """Choose the `count` eligible positions with the smallest (or largest) absolute value, exactly.

    Positions that tie at the border are drawn by lot, so the count is exact and no row is preferred.
    NaN counts as neither small nor large: such positions are chosen last.

    Args:
        values: floating tensors, the parts of one pool; their absolute values are compared.
        eligible: bool tensors of the same shapes.
        count: how many to choose; at most all eligible positions are.
        generator: decides ties.
        largest: True chooses the largest magnitudes, False the smallest.

    Returns:
        Bool tensors of the shapes of `values`, True where chosen.

    Example:
        >>> values, active = torch.tensor([0.1, -3.0, 0.2, 5.0]), torch.tensor([False, True, True, True])
        >>> by_magnitude([values], [active], 2, torch.Generator(), largest=False)
        [tensor([False,  True,  True, False])]
    """
    total = count_true(eligible)
    if count <= 0 or count >= total:
        return lottery(eligible, count, generator)
    border = kth_magnitude(values, eligible, total - count + 1 if largest else count)
    split = [_beyond_and_at(v, e, border, largest) for v, e in zip(values, eligible, strict=True)]
    chosen = [beyond for beyond, _ in split]
    chosen = _union(chosen, lottery([at for _, at in split], count - count_true(chosen), generator))
    missing = count - count_true(chosen)
    if missing > 0:  # only where the values contain NaN
        rest = [e & ~c for e, c in zip(eligible, chosen, strict=True)]
        chosen = _union(chosen, lottery(rest, missing, generator))
    return chosen


def kth_magnitude(values: Sequence[Tensor], eligible: Sequence[Tensor], rank: int) -> float:
    """The `rank`-th smallest absolute value (1 = smallest) among the eligible positions of a pool.

    Example:
        >>> kth_magnitude([torch.tensor([4.0, -1.0, 3.0])], [torch.tensor([True, True, True])], 2)
        3.0
    """
    low, high = _bracket(values, eligible, rank)
    below, middle = _between(values, eligible, low, high)
    if not below < rank <= below + middle.size:  # the sample misled; look at everything
        below, middle = _between(values, eligible, 0.0, math.inf)
    at = min(rank - below - 1, middle.size - 1)
    return float(np.partition(middle, at)[at]) if middle.size else math.nan


def _draw(eligible: Sequence[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """`lottery` through a list of the eligible indices: for few of them."""
    places = [torch.from_numpy(np.flatnonzero(part.numpy())) for part in eligible]
    order = torch.randperm(sum(len(p) for p in places), generator=generator)[: max(count, 0)]
    chosen, start = [], 0
    for part, place in zip(eligible, places, strict=True):
        mine = order[(order >= start) & (order < start + len(place))] - start
        flags = torch.zeros_like(part)
        flags.view(-1)[place[mine]] = True
        chosen.append(flags)
        start += len(place)
    return chosen


def _random_bytes(eligible: Tensor, generator: torch.Generator) -> Tensor:
    """A random byte for every position; 255 where it is not eligible."""
    words = torch.empty(-(-eligible.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    keys = words.view(torch.uint8)[: eligible.numel()].view(eligible.shape)
    return keys.bitwise_or_(
        eligible.view(torch.uint8) - 1
    )  # 1 - 1 = 0 keeps the key, 0 - 1 = 255 overrides it


def _histogram(keys: Sequence[Tensor], total: int) -> Tensor:
    """How many of the `total` eligible positions have each byte."""
    counts = torch.stack([torch.bincount(key.view(-1), minlength=256) for key in keys]).sum(0)
    counts[255] -= sum(key.numel() for key in keys) - total
    return counts


def _union(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    return [a.logical_or_(b) for a, b in zip(first, second, strict=True)]


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor.view(-1), CHUNK) for tensor in tensors), strict=True)


def _beyond_and_at(values: Tensor, eligible: Tensor, border: float, largest: bool) -> tuple[Tensor, Tensor]:
    """Where the magnitude of an eligible value lies beyond the border, and where exactly on it."""
    beyond, at = torch.empty_like(eligible), torch.empty_like(eligible)
    compare = torch.gt if largest else torch.lt
    for value, allowed, beyond_part, at_part in _chunks(values, eligible, beyond, at):
        magnitude = value.abs()
        compare(magnitude, border, out=beyond_part).logical_and_(allowed)
        torch.eq(magnitude, border, out=at_part).logical_and_(allowed)
    return beyond, at


def _bracket(values: Sequence[Tensor], eligible: Sequence[Tensor], rank: int) -> tuple[float, float]:
    """Two magnitudes that very probably enclose the one of this rank (four standard errors to each side)."""
    stride = sum(v.numel() for v in values) // SAMPLE | 1  # odd: keeps out of step with even row lengths
    sample = np.sort(np.concatenate([_every(v, e, stride) for v, e in zip(values, eligible, strict=True)]))
    if stride == 1 or not sample.size:
        return 0.0, math.inf
    quantile = rank / count_true(eligible)
    margin = 4 * math.sqrt(quantile * (1 - quantile) * sample.size) + 2
    first, last = int(quantile * sample.size - margin), int(quantile * sample.size + margin)
    low = float(sample[first]) if first >= 0 else 0.0
    high = float(sample[last]) if last < sample.size else math.inf
    return low, high


def _every(values: Tensor, eligible: Tensor, stride: int) -> Floats:
    sampled: Floats = values.view(-1)[::stride].numpy()
    magnitudes: Floats = np.abs(sampled[eligible.view(-1)[::stride].numpy()])
    return magnitudes


def _between(
    values: Sequence[Tensor], eligible: Sequence[Tensor], low: float, high: float
) -> tuple[int, Floats]:
    """The number of eligible magnitudes below `low`, and those from `low` to `high`."""
    below, middle = 0, []
    for value, allowed in (c for v, e in zip(values, eligible, strict=True) for c in _chunks(v, e)):
        magnitude = value.abs()
        under = magnitude < low
        below += int((under & allowed).count_nonzero())
        inside = (magnitude <= high).logical_and_(allowed).logical_and_(under.logical_not_())
        middle.append(magnitude.numpy()[np.flatnonzero(inside.numpy())])
    return below, np.concatenate(middle)
