"""The compiled product of a recurrent step: a few rows by a large weight, which stays as it lies in memory.

For float32 on the CPU. The other direction of training needs a transposed copy, which is compiled too. An output is
summed in the same order whatever the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.kernels.library import Library, library, loaded

LEAST = 16
"""Both sizes of a weight; the widest vector has 16 numbers."""

SHARED_FROM = 1 << 19
"""Multiplications (or entries to copy) from which work is shared out among threads: one takes 20 us or more."""


def takes(weight: Tensor) -> bool:
    """Whether `Factor` takes this weight: float32 on the CPU, dense or a transposed view of it, and not tiny.

    Example:
        >>> takes(torch.zeros(20, 40, dtype=torch.float64)), takes(torch.zeros(2, 40))
        (False, False)
    """
    return (
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.dim() == 2
        and min(weight.shape) >= LEAST
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and library() is not None
    )


class Factor:
    """A weight W (G, H) that is going to meet many a (B, H).

    Args:
        weight: one that `takes` accepts; kept where it is if it is dense, and a transposed view is copied.

    Raises:
        InputError: for any other weight, and in a call for shapes or types that do not fit.

    Example:
        >>> weight = torch.ones(16, 16)
        >>> if takes(weight): assert Factor(weight)(torch.ones(16), torch.ones(2, 16)).eq(17).all()
    """

    def __init__(self, weight: Tensor) -> None:
        found = library()
        if found is None or not takes(weight):
            raise InputError(
                f"the compiled product was given a weight of {weight.dtype} and shape {tuple(weight.shape)}; "
                "ask takes() first."
            )
        self._library = found
        self.weight = weight if weight.is_contiguous() else transposed(weight.t())

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """base + a W^T, (B, G): into `base` where it is dense (B, G); a bias (G,) is left alone."""
        a, base = a.contiguous(), base.contiguous()
        rows, shared = len(a), base.dim() == 1
        outputs, inner = self.weight.shape
        fits = a.shape == (rows, inner) and base.shape == ((outputs,) if shared else (rows, outputs))
        if not (fits and a.dtype == base.dtype == torch.float32):
            raise InputError(
                f"a weight of shape {(outputs, inner)} met {a.dtype} of shape {tuple(a.shape)} and a base of "
                f"{base.dtype} and shape {tuple(base.shape)}; they are float32, (B, {inner}) and (B, {outputs})."
            )
        out = base.new_empty(rows, outputs) if shared else base
        pointers = [tensor.data_ptr() for tensor in (self.weight, a, base, out)]
        threads = _threads(self._library, rows * outputs * inner)
        self._library.product(*pointers, rows, outputs, inner, shared, threads)
        return out


def transposed(weight: Tensor) -> Tensor:
    """A dense copy (H, G) of the transpose of a weight (G, H) that `takes` accepts as it lies in memory.

    Example:
        >>> weight = torch.rand(16, 20)
        >>> if takes(weight): assert transposed(weight).equal(weight.t())
    """
    found = loaded()
    copy = weight.new_empty(weight.shape[1], weight.shape[0])
    found.transpose(weight.data_ptr(), copy.data_ptr(), *weight.shape, _threads(found, weight.numel()))
    return copy


def _threads(found: Library, operations: int) -> int:
    return int(found.threads_between()) if operations >= SHARED_FROM else 1
