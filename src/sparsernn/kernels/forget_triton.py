"""The recurrence of quasi-recurrent layers on a CUDA device, by Triton.

Two ways. `_ahead` and `_back` take a block of channels from the first step to the last, their state in registers,
which keeps a device busy where there are many channels. `_scanned` takes many steps of few channels at a time by an
associative scan: (a, b) stands for c -> a c + b, and two of them one after the other are one again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsernn.kernels.triton_language import Kernel

tl: Any = None  # triton.language, which `Kernel` puts here

BLOCK = 128
"""Channels of a program that goes step by step: four warps of one channel per thread."""

SCAN_UP_TO = 8192
"""Channels up to which steps are scanned: 64 programs of `BLOCK` leave half of the 132 multiprocessors of an H100
without work. Reckoned, not measured."""
SCAN_FROM = 16
"""Steps from which it does."""
SCAN_STEPS, SCAN_CHANNELS = 64, 16
"""Steps and channels of a tile: 1024 pairs, eight to a thread of four warps."""


@Kernel
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


@Kernel
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
        if gated:
            tl.store(d_p + here, (b - old) * r, mask=inside)
            tl.store(d_q + here, a * r, mask=inside)
            carry = (1.0 - a) * r
        else:
            tl.store(d_p + here, old * r, mask=inside)
            tl.store(d_q + here, r, mask=inside)
            carry = a * r
        here -= width
    tl.debug_barrier()  # threads that hold the same channel have all read it
    tl.store(carry_out + at, carry, mask=inside)


@Kernel
def _after(a, b, then_a, then_b):  # type: ignore[no-untyped-def]
    return a * then_a, then_a * b + then_b


@Kernel
def _scanned(  # type: ignore[no-untyped-def]
    a, b, start, c, steps, width, backwards: tl.constexpr, tile: tl.constexpr, block: tl.constexpr
):
    """c_t = a_t c_(t-1) + b_t; backwards c_t = a_(t+1) c_(t+1) + b_t, where a beyond the end is 0."""
    channel = tl.program_id(0) * block + tl.arange(0, block)
    row = tl.arange(0, tile)
    inside = channel < width
    state = tl.load(start + channel, mask=inside, other=0.0)
    for first in range(0, steps, tile):
        number = first + row
        step = number
        factor = number
        if backwards:
            step = steps - 1 - number
            factor = steps - number
        here = (number < steps)[:, None] & inside[None, :]
        at = step.to(tl.int64)[:, None] * width + channel[None, :]
        of_factor = factor.to(tl.int64)[:, None] * width + channel[None, :]
        known = here & (factor < steps)[:, None]
        kept = tl.load(a + of_factor, mask=known, other=0.0)
        come = tl.load(b + at, mask=here, other=0.0)
        # Beyond the end nothing happens: the state stays what it is.
        kept = tl.where(here, kept, 1.0)
        kept, come = tl.associative_scan((kept, come), 0, _after)
        after = kept * state[None, :] + come
        tl.store(c + at, after, mask=here)
        state = tl.sum(tl.where((row == tile - 1)[:, None], after, 0.0), 0)


def scans(p: Tensor) -> bool:
    """Whether the recurrence over p (T, B, H) goes by an associative scan.

    Example:
        >>> scans(torch.zeros(100, 1, 50)), scans(torch.zeros(100, 20, 1550))
        (True, False)
    """
    return len(p) >= SCAN_FROM and p.shape[1:].numel() <= SCAN_UP_TO


def _scan(a: Tensor, b: Tensor, start: Tensor, backwards: bool) -> Tensor:
    c, width = torch.empty_like(b), start.numel()
    programs = -(-width // SCAN_CHANNELS)
    sizes = {"tile": SCAN_STEPS, "block": SCAN_CHANNELS}
    _scanned.launch(programs, a, b, start, c, len(b), width, backwards=backwards, **sizes)
    return c


def forward(p: Tensor, q: Tensor, start: Tensor, gated: bool) -> Tensor:
    """As `sparsernn.kernels.forget_kernel.forward`."""
    p, q, start = p.contiguous(), q.contiguous(), start.contiguous()
    if scans(p):
        return _scan(*((1 - p, p * q) if gated else (p, q)), start, backwards=False)
    c, width = torch.empty_like(p), start.numel()
    _ahead.launch(-(-width // BLOCK), p, q, start, c, len(p), width, gated=gated, block=BLOCK)
    return c


def backward(
    d: Tensor, p: Tensor, q: Tensor, start: Tensor, c: Tensor, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `sparsernn.kernels.forget_kernel.backward`."""
    d, p, q = (t.contiguous() for t in (d, p, q))
    before = torch.cat([start.unsqueeze(0), c[:-1]])
    carry = torch.zeros_like(start, memory_format=torch.contiguous_format)
    if scans(p):
        a = 1 - p if gated else p
        r = _scan(a, d, carry, backwards=True)
        return (q - before if gated else before) * r, p * r if gated else r, a[0] * r[0]
    d_p, d_q, width = torch.empty_like(p), torch.empty_like(q), start.numel()
    tensors = (d, p, q, before, d_p, d_q, carry)
    _back.launch(-(-width // BLOCK), *tensors, len(p), width, gated=gated, block=BLOCK)
    return d_p, d_q, carry
