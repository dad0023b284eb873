"""Which kernels take the element-wise rules of a recurrence: the one place where that is decided."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sparsernn.kernels import recurrence_kernel, recurrence_triton, triton_language


class RuleKernels(Protocol):
    """What the kernels of the CPU and those of a CUDA device have in common; see `recurrence_kernel`."""

    def highway_forward(self, pre: Tensor, s: Tensor, out: Tensor) -> None:
        """h, t of the two halves of pre, in place; out = s + t (h - s)."""

    def highway_backward(self, d: Tensor, opened: Tensor, s: Tensor, d_pre: Tensor) -> Tensor:
        """Back through it."""

    def gates_forward(self, pre: Tensor, before: Tensor, out: Tensor) -> Tensor:
        """The gates of the LSTM."""

    def gates_backward(
        self, d_h: Tensor, d_c: Tensor, opened: Tensor, before: Tensor, c: Tensor, d_pre: Tensor
    ) -> Tensor:
        """Back through them."""

    def ordered_forward(self, pre: Tensor, before: Tensor, out: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
        """The gates of the ordered-neurons LSTM."""

    def ordered_backward(
        self,
        gradient: tuple[Tensor, ...],
        opened: Tensor,
        before: Tensor,
        tanh_c: Tensor,
        d_pre: Tensor,
        chunks: int,
    ) -> Tensor:
        """Back through them."""


def rule_kernels(pre: Tensor) -> RuleKernels | None:
    """The kernels for a pre-activation (B, G), or None where torch's own operations do the work.

    Compiled ones for float32 on the CPU; on a CUDA device Triton's, which are one launch for what torch does in three
    (highway) to twenty (ordered gates).

    Example:
        >>> import torch
        >>> rule_kernels(torch.zeros(2, 4, dtype=torch.float64)) is None
        True
    """
    if recurrence_kernel.takes(pre):
        return recurrence_kernel
    return recurrence_triton if pre.is_contiguous() and triton_language.takes(pre) else None


def same_kernels(opened: Tensor) -> RuleKernels:
    """Those that took a pre-activation on its way forwards."""
    found = rule_kernels(opened)
    assert found is not None
    return found
