"""Tensors with many zeros as one bit per position and the values that are not 0, to the bit."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

PARTS = ("bits", "values", "signs")
SMALLEST = 64
"""Tensors with fewer elements are stored as they are: two more names in the file take more than they save."""


def pays(tensor: Tensor) -> bool:
    """Whether the tensor takes less room in pieces.

    >>> pays(torch.eye(100)), pays(torch.ones(100, 100)), pays(torch.ones(100, dtype=torch.bool))
    (True, False, True)
    """
    if tensor.numel() < SMALLEST or tensor.is_complex():
        return False
    if tensor.dtype == torch.bool:
        return True
    kept = int(tensor.count_nonzero())
    return tensor.numel() // 4 + 2 + kept * tensor.element_size() < tensor.numel() * tensor.element_size()


def pieces(tensor: Tensor) -> dict[str, Tensor]:
    """`bits` (uint8) and, unless the tensor is of truth values, `values`; `signs` where there are zeros below 0.

    Masked weights are often -0.0, which is what a negative number times 0 is.

    >>> {name: piece.tolist() for name, piece in pieces(torch.tensor([0.0, 2.0, 0.0, 3.0])).items()}
    {'bits': [10], 'values': [2.0, 3.0]}
    """
    if tensor.dtype == torch.bool:
        return {"bits": _packed(tensor)}
    whole = tensor.detach().cpu()
    present = whole != 0
    below = torch.signbit(whole) & ~present
    signs = {"signs": _packed(below)} if bool(below.any()) else {}
    return {"bits": _packed(present), "values": whole[present], **signs}


def joined(found: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """The tensor that `pieces` took apart.

    >>> joined(pieces(torch.eye(2)), [2, 2]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    present = _flags(found["bits"], shape)
    if "values" not in found:
        return present
    dense = torch.zeros(shape, dtype=found["values"].dtype)
    dense[present] = found["values"]
    if "signs" in found:
        dense[_flags(found["signs"], shape)] = -0.0
    return dense


def _packed(flags: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(flags.detach().cpu().reshape(-1).numpy(), bitorder="little"))


def _flags(bits: Tensor, shape: list[int]) -> Tensor:
    flags = np.unpackbits(bits.numpy(), count=torch.Size(shape).numel(), bitorder="little")
    return torch.from_numpy(flags).bool().view(shape)
