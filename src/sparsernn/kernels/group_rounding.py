"""Weights rounded to 4 bits, with a factor for each group of neighbouring columns of a row, two to a byte.

Sixteen levels, -8 to 7 times a factor that has the sign which puts the group's largest weight on -8, so that no level
is lost and what was rounded before is left as it is, but for groups whose factor is below 6.1e-5, where factors
themselves are rounded coarsely. Groups of 64: the sum of a group's products with a vector of 16
bits is at most 64 * 8 * 32767, below 2^24, so that it is exact as a float. Factors of 16 bits take 0.25 bits a
weight; with 32 bits, or with groups of 32 columns, it would be 0.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.kernels.weight_formats import to_int8

GROUP = 64
"""Columns that share a factor."""
LOWEST, HIGHEST = -8, 7


def groups_of(columns: int) -> int:
    """Groups of a row; the last one may be narrower."""
    return (columns + GROUP - 1) // GROUP


def to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds to 4 bits: int8 of -8 to 7 (R, C) and float16 factors (R, groups), weight ~ int8 * factor of its group.

    A factor that is not finite (of a weight above 524,000) is the caller's to refuse.

    Example:
        >>> to_int4(torch.tensor([[0.5, -1.0, 1.0, 0.1]]))
        (tensor([[-4,  7, -8, -1]], dtype=torch.int8), tensor([[-0.1250]], dtype=torch.float16))
    """
    rows, columns = weight.shape
    filled = functional.pad(weight.float(), (0, -columns % GROUP)).view(rows, -1, GROUP)
    # of two that are equally far from 0 the positive one: the choice must not depend on their order
    top, bottom = filled.amax(2), filled.amin(2)
    scale = (torch.where(top >= -bottom, top, bottom) / LOWEST).to(torch.float16)
    steps = torch.where(scale == 0, 0.0, 1.0).unsqueeze(2) * filled
    steps = steps / torch.where(scale == 0, 1.0, scale.float()).unsqueeze(2)
    values = steps.round_().clamp_(LOWEST, HIGHEST).to(torch.int8)
    return values.view(rows, -1)[:, :columns].contiguous(), scale


def from_int4(values: Tensor, scale: Tensor) -> Tensor:
    """The weights (R, C) that rounded values and their factors stand for, float32.

    Example:
        >>> from_int4(*to_int4(torch.tensor([[0.5, -1.0]])))
        tensor([[ 0.5000, -1.0000]])
    """
    factors = scale.float().repeat_interleave(GROUP, 1)[:, : values.shape[1]]
    return values * factors + 0.0  # no zeros below 0


def to_nibbles(values: Tensor) -> Tensor:
    """Values -8 to 7 (N,), two to a byte, the first in the low half, 8 added: uint8 (ceil(N / 2),).

    Example:
        >>> to_nibbles(torch.tensor([-8, 7, 0]))
        tensor([240, 136], dtype=torch.uint8)
    """
    pairs = functional.pad(values.short() - LOWEST, (0, len(values) % 2), value=-LOWEST).view(-1, 2)
    return (pairs[:, 0] + 16 * pairs[:, 1]).to(torch.uint8)


def from_nibbles(packed: Tensor, count: int) -> Tensor:
    """The first `count` values of `to_nibbles`, int8.

    Example:
        >>> from_nibbles(torch.tensor([240, 136], dtype=torch.uint8), 3)
        tensor([-8,  7,  0], dtype=torch.int8)
    """
    both = torch.stack([packed & 15, packed >> 4], 1).view(-1)[:count]
    return both.to(torch.int8) + LOWEST


def _as_int8(weight: Tensor) -> Tensor:
    values, scale = to_int8(weight.float())
    return values * scale.unsqueeze(1)


def _as_int4(weight: Tensor) -> Tensor:
    return from_int4(*to_int4(weight))


ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {"int8": _as_int8, "int4": _as_int4}
"""Kind of values -> a matrix (R, C) as it stands for itself when rounded to them, float32."""
BITS = {"int8": 8, "int4": 4}
