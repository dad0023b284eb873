"""Tensors with many zeros as one bit per position and the values that are not 0, to the bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as the elements of a tensor: -0.0 has a bit set and is kept."""

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
    kept = int(_words(tensor).count_nonzero())
    return tensor.numel() // 8 + 1 + kept * tensor.element_size() < tensor.numel() * tensor.element_size()


def pieces(tensor: Tensor) -> dict[str, Tensor]:
    """`bits` (uint8) and, unless the tensor is of truth values, `values`.

    >>> {name: piece.tolist() for name, piece in pieces(torch.tensor([0.0, 2.0, 0.0, 3.0])).items()}
    {'bits': [10], 'values': [2.0, 3.0]}
    """
    if tensor.dtype == torch.bool:
        return {"bits": _packed(tensor)}
    present = _words(tensor) != 0
    return {"bits": _packed(present), "values": tensor.detach().cpu()[present]}


def joined(found: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """The tensor that `pieces` took apart.

    >>> joined(pieces(torch.eye(2)), [2, 2]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    count = torch.Size(shape).numel()
    bits = np.unpackbits(found["bits"].numpy(), count=count, bitorder="little")
    present = torch.from_numpy(bits).bool().view(shape)
    if "values" not in found:
        return present
    dense = torch.zeros(shape, dtype=found["values"].dtype)
    dense[present] = found["values"]
    return dense


def _packed(flags: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(flags.detach().cpu().reshape(-1).numpy(), bitorder="little"))


def _words(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().view(WORDS[tensor.element_size()])
