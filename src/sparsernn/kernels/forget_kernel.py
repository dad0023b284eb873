"""The compiled recurrence of quasi-recurrent layers: one pass over memory forwards, one back.

For dense float32 on the CPU. `sparsernn.nn.cells.forget_mult` has its twins in torch and uses it where `takes`
says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsernn.kernels.library import library, loaded

SHARED_FROM = 1 << 17
"""Numbers from which the channels are shared out: one thread takes 60 us or more for them, at three reads or writes
of four bytes each and the 22 GB/s that one core of an AMD EPYC moves."""


def takes(p: Tensor, q: Tensor, start: Tensor) -> bool:
    """Whether the compiled recurrence takes p and q (T, B, H) and start (B, H): float32 on the CPU, and a library.

    Example:
        >>> takes(*(torch.zeros(2, 1, 1, dtype=torch.float64) for _ in "pqs"))
        False
    """
    suits = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (p, q, start))
    fits = p.shape == q.shape and p.shape[1:] == start.shape
    return suits and fits and library() is not None


def _call(name: str, gated: bool, tensors: tuple[Tensor, ...]) -> None:
    """One call; the second tensor has the shape of the window."""
    found = loaded()
    steps, width = len(tensors[1]), tensors[1][0].numel() if len(tensors[1]) else 0
    threads = found.threads_between() if steps * width >= SHARED_FROM else 1
    getattr(found, name)(*(t.data_ptr() for t in tensors), steps, width, int(gated), threads)


def forward(p: Tensor, q: Tensor, start: Tensor, gated: bool) -> Tensor:
    """c_t = p_t c_(t-1) + q_t, or where `gated` p_t q_t + (1 - p_t) c_(t-1); c (T, B, H).

    Args:
        p: (T, B, H).
        q: (T, B, H).
        start: c before the first step, (B, H).
        gated: which of the two.

    Example:
        >>> if library(): print(forward(torch.ones(2, 1, 1), torch.ones(2, 1, 1), torch.ones(1, 1), False).flatten())
        ... else: print("tensor([2., 3.])")
        tensor([2., 3.])
    """
    p, q, start = p.contiguous(), q.contiguous(), start.contiguous()
    c = torch.empty_like(p)
    _call("forget_forward", gated, (p, q, start, c))
    return c


def backward(
    d: Tensor, p: Tensor, q: Tensor, start: Tensor, c: Tensor, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient d (T, B, H) of c -> those of p, q and start; the rest as `forward` had it and gave it."""
    d, p, q, start, c = (t.contiguous() for t in (d, p, q, start, c))
    d_p, d_q, carry = torch.empty_like(p), torch.empty_like(p), torch.zeros_like(start)
    _call("forget_backward", gated, (d, p, q, start, c, d_p, d_q, carry))
    return d_p, d_q, carry
