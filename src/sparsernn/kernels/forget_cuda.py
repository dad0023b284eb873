"""The recurrence of quasi-recurrent layers on a CUDA device, where Triton is installed.

One program takes a block of channels from the first step to the last, its state in registers. The authors had no such
device: it has never run on one, let alone been timed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

triton: Any = importlib.import_module("triton") if importlib.util.find_spec("triton") else None
tl: Any = importlib.import_module("triton.language") if triton else None

BLOCK = 128
"""Channels of a program: four warps of one channel per thread."""


def takes(p: Tensor) -> bool:
    """Whether p lies on a CUDA device, in a type that the kernel takes, and Triton is there.

    Example:
        >>> takes(torch.zeros(1))
        False
    """
    return triton is not None and p.is_cuda and p.dtype in (torch.float32, torch.float64)


def _ahead(p, q, start, c, steps, width, gated: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < width
    state = tl.load(start + at, mask=inside, other=0.0)
    here = at.to(tl.int64)
    for _ in range(steps):
        a = tl.load(p + here, mask=inside, other=0.0)
        b = tl.load(q + here, mask=inside, other=0.0)
        state = a * b + (1.0 - a) * state if gated else a * state + b
        tl.store(c + here, state, mask=inside)
        here += width


def _back(  # type: ignore[no-untyped-def]
    d, p, q, before, d_p, d_q, carry_out, steps, width, gated: tl.constexpr, block: tl.constexpr
):
    """`before` holds start, then c but for its last step."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < width
    carry = tl.load(carry_out + at, mask=inside, other=0.0)
    here = at.to(tl.int64) + tl.full([block], steps - 1, tl.int64) * width
    for _ in range(steps):
        a = tl.load(p + here, mask=inside, other=0.0)
        b = tl.load(q + here, mask=inside, other=0.0)
        old = tl.load(before + here, mask=inside, other=0.0)
        r = tl.load(d + here, mask=inside, other=0.0) + carry
        tl.store(d_p + here, (b - old) * r if gated else old * r, mask=inside)
        tl.store(d_q + here, a * r if gated else r, mask=inside)
        carry = (1.0 - a) * r if gated else a * r
        here -= width
    tl.store(carry_out + at, carry, mask=inside)


def _launch(kernel: Callable[..., object], tensors: tuple[Tensor, ...], gated: bool) -> None:
    steps, width = len(tensors[1]), tensors[1].shape[1:].numel()
    if width:
        triton.jit(kernel)[(triton.cdiv(width, BLOCK),)](*tensors, steps, width, gated=gated, block=BLOCK)


def forward(p: Tensor, q: Tensor, start: Tensor, gated: bool) -> Tensor:
    """As `sparsernn.kernels.forget_kernel.forward`."""
    p, q, start = p.contiguous(), q.contiguous(), start.contiguous()
    c = torch.empty_like(p)
    _launch(_ahead, (p, q, start, c), gated)
    return c


def backward(
    d: Tensor, p: Tensor, q: Tensor, start: Tensor, c: Tensor, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `sparsernn.kernels.forget_kernel.backward`."""
    d, p, q = (t.contiguous() for t in (d, p, q))
    before = torch.cat([start.unsqueeze(0), c[:-1]])
    d_p, d_q, carry = torch.empty_like(p), torch.empty_like(q), torch.zeros_like(start)
    _launch(_back, (d, p, q, before, d_p, d_q, carry), gated)
    return d_p, d_q, carry
