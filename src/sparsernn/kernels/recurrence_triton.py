"""Element-wise rules of recurrent layers on a CUDA device, each in one kernel, by Triton.

They stand beside the same torch code as those of `sparsernn.kernels.recurrence_kernel`, and keep the same things.
Tensors are dense; a pre-activation is overwritten with what its nonlinearities make of it. Several threads may hold
the same number, of which one writes: so a barrier stands between the last read and the first write of what is
overwritten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsernn.kernels.triton_language import Kernel, power_above

tl: Any = None  # triton.language, which `Kernel` puts here

BLOCK = 256
"""Units of a program: two for each thread of four warps."""

WARP_UNITS = 128
"""Units of a row for which the ordered gates take one more warp: four for each thread."""


@Kernel
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@Kernel
def _tanh(x):  # type: ignore[no-untyped-def]
    """By its series near 0, where the difference of two numbers near 1 would have no digits left."""
    gone = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - gone) / (1.0 + gone)
    s = x * x
    series = 62.0 / 2835.0 + s * (-1382.0 / 155925.0 + s * (21844.0 / 6081075.0))
    near = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * series))))
    return tl.where(tl.abs(x) < 0.1, near, tl.where(x < 0.0, -far, far))


@Kernel
def _highway(pre, s, out, units, width, block: tl.constexpr, free: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < units
    gates = pre + at // width * (3 * width if free else 2 * width) + at % width
    h = _tanh(tl.load(gates, mask=inside, other=0.0))
    t = _sigmoid(tl.load(gates + width, mask=inside, other=0.0))
    before = tl.load(s + at, mask=inside, other=0.0)
    if free:
        c = _sigmoid(tl.load(gates + 2 * width, mask=inside, other=0.0))
        tl.debug_barrier()
        tl.store(gates + 2 * width, c, mask=inside)
        tl.store(out + at, h * t + before * c, mask=inside)
    else:
        tl.debug_barrier()
        tl.store(out + at, before + t * (h - before), mask=inside)
    tl.store(gates, h, mask=inside)
    tl.store(gates + width, t, mask=inside)


@Kernel
def _highway_back(  # type: ignore[no-untyped-def]
    d, opened, s, d_pre, direct, units, width, block: tl.constexpr, free: tl.constexpr
):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < units
    gates = at // width * (3 * width if free else 2 * width) + at % width
    h = tl.load(opened + gates, mask=inside, other=0.0)
    t = tl.load(opened + gates + width, mask=inside, other=0.0)
    before = tl.load(s + at, mask=inside, other=0.0)
    come = tl.load(d + at, mask=inside, other=0.0)
    tl.store(d_pre + gates, come * t * (1.0 - h * h), mask=inside)
    if free:
        c = tl.load(opened + gates + 2 * width, mask=inside, other=0.0)
        tl.store(d_pre + gates + width, come * h * t * (1.0 - t), mask=inside)
        tl.store(d_pre + gates + 2 * width, come * before * c * (1.0 - c), mask=inside)
        tl.store(direct + at, come * c, mask=inside)
    else:
        tl.store(d_pre + gates + width, come * (h - before) * t * (1.0 - t), mask=inside)
        tl.store(direct + at, come - come * t, mask=inside)


@Kernel
def _gates(pre, before, out, after, units, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < units
    gates = pre + at // width * (4 * width) + at % width
    i = _sigmoid(tl.load(gates, mask=inside, other=0.0))
    f = _sigmoid(tl.load(gates + width, mask=inside, other=0.0))
    g = _tanh(tl.load(gates + 2 * width, mask=inside, other=0.0))
    o = _sigmoid(tl.load(gates + 3 * width, mask=inside, other=0.0))
    c = f * tl.load(before + at, mask=inside, other=0.0) + i * g
    tl.debug_barrier()
    tl.store(gates, i, mask=inside)
    tl.store(gates + width, f, mask=inside)
    tl.store(gates + 2 * width, g, mask=inside)
    tl.store(gates + 3 * width, o, mask=inside)
    tl.store(after + at, c, mask=inside)
    tl.store(out + at, o * _tanh(c), mask=inside)


@Kernel
def _gates_back(  # type: ignore[no-untyped-def]
    d_h, d_c, opened, before, after, d_pre, d_before, units, width, block: tl.constexpr
):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < units
    gates = at // width * (4 * width) + at % width
    i = tl.load(opened + gates, mask=inside, other=0.0)
    f = tl.load(opened + gates + width, mask=inside, other=0.0)
    g = tl.load(opened + gates + 2 * width, mask=inside, other=0.0)
    o = tl.load(opened + gates + 3 * width, mask=inside, other=0.0)
    c = tl.load(before + at, mask=inside, other=0.0)
    tanh_c = _tanh(tl.load(after + at, mask=inside, other=0.0))
    of_h = tl.load(d_h + at, mask=inside, other=0.0)
    through = tl.load(d_c + at, mask=inside, other=0.0) + of_h * o * (1.0 - tanh_c * tanh_c)
    tl.store(d_pre + gates, through * g * i * (1.0 - i), mask=inside)
    tl.store(d_pre + gates + width, through * c * f * (1.0 - f), mask=inside)
    tl.store(d_pre + gates + 2 * width, through * i * (1.0 - g * g), mask=inside)
    tl.store(d_pre + gates + 3 * width, of_h * tanh_c * o * (1.0 - o), mask=inside)
    tl.store(d_before + at, through * f, mask=inside)


@Kernel
def _modrelu(pre, bias, out, units, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < units
    x = tl.load(pre + at, mask=inside, other=0.0)
    grown = tl.abs(x) + tl.load(bias + at % width, mask=inside, other=0.0)
    size = tl.where(grown > 0.0, grown, grown * 0.0)  # what is not a number stays none
    tl.debug_barrier()
    tl.store(pre + at, size, mask=inside)
    tl.store(out + at, tl.where(x > 0.0, size, tl.where(x < 0.0, -size, x * 0.0)), mask=inside)


@Kernel
def _softmax(z):  # type: ignore[no-untyped-def]
    grown = tl.exp(z - tl.max(z, 0))
    return grown / tl.sum(grown, 0)


@Kernel
def _ordered(  # type: ignore[no-untyped-def]
    pre, before, out, after, tanh_after, chunks, size, many: tl.constexpr, each: tl.constexpr
):
    """One row of the batch; the units of a chunk lie along the second axis."""
    row = tl.program_id(0)
    chunk = tl.arange(0, many)
    known = chunk < chunks
    width = chunks * size
    masters = pre + row * (2 * chunks + 4 * width) + chunk
    soft_in = _softmax(tl.load(masters, mask=known, other=-float("inf")))
    soft_forget = _softmax(tl.load(masters + chunks, mask=known, other=-float("inf")))
    i_ = (1.0 - tl.cumsum(soft_in, 0))[:, None]
    f_ = tl.cumsum(soft_forget, 0)[:, None]
    own = tl.arange(0, each)[None, :]
    inside = known[:, None] & (own < size)
    unit = chunk[:, None] * size + own
    gates = pre + row * (2 * chunks + 4 * width) + 2 * chunks + unit
    o = _sigmoid(tl.load(gates, mask=inside, other=0.0))
    g = _tanh(tl.load(gates + width, mask=inside, other=0.0))
    into = _sigmoid(tl.load(gates + 2 * width, mask=inside, other=0.0))
    forget = _sigmoid(tl.load(gates + 3 * width, mask=inside, other=0.0))
    tl.debug_barrier()
    tl.store(masters, soft_in, mask=known)
    tl.store(masters + chunks, soft_forget, mask=known)
    tl.store(gates, o, mask=inside)
    tl.store(gates + width, g, mask=inside)
    tl.store(gates + 2 * width, into, mask=inside)
    tl.store(gates + 3 * width, forget, mask=inside)
    overlap = f_ * i_
    keep = forget * overlap + (f_ - overlap)
    write = into * overlap + (i_ - overlap)
    at = row * width + unit
    c = keep * tl.load(before + at, mask=inside, other=0.0) + write * g
    tanh_c = _tanh(c)
    tl.store(after + at, c, mask=inside)
    tl.store(tanh_after + at, tanh_c, mask=inside)
    tl.store(out + at, o * tanh_c, mask=inside)


@Kernel
def _of_softmax(d_steps, soft):  # type: ignore[no-untyped-def]
    """Gradient of the running sum of a softmax -> that of what the softmax was taken of."""
    d_soft = tl.sum(d_steps, 0) - tl.cumsum(d_steps, 0) + d_steps
    return soft * (d_soft - tl.sum(soft * d_soft, 0))


@Kernel
def _ordered_back(  # type: ignore[no-untyped-def]
    d_h,
    d_c,
    opened,
    before,
    tanh_after,
    d_pre,
    d_before,
    chunks,
    size,
    many: tl.constexpr,
    each: tl.constexpr,
):
    row = tl.program_id(0)
    chunk = tl.arange(0, many)
    known = chunk < chunks
    width = chunks * size
    masters = row * (2 * chunks + 4 * width) + chunk
    soft_in = tl.load(opened + masters, mask=known, other=0.0)
    soft_forget = tl.load(opened + masters + chunks, mask=known, other=0.0)
    i_ = 1.0 - tl.cumsum(soft_in, 0)
    f_ = tl.cumsum(soft_forget, 0)
    own = tl.arange(0, each)[None, :]
    inside = known[:, None] & (own < size)
    unit = chunk[:, None] * size + own
    gates = row * (2 * chunks + 4 * width) + 2 * chunks + unit
    o = tl.load(opened + gates, mask=inside, other=0.0)
    g = tl.load(opened + gates + width, mask=inside, other=0.0)
    into = tl.load(opened + gates + 2 * width, mask=inside, other=0.0)
    forget = tl.load(opened + gates + 3 * width, mask=inside, other=0.0)
    at = row * width + unit
    old = tl.load(before + at, mask=inside, other=0.0)
    tanh_c = tl.load(tanh_after + at, mask=inside, other=0.0)
    of_h = tl.load(d_h + at, mask=inside, other=0.0)
    through = tl.load(d_c + at, mask=inside, other=0.0) + of_h * o * (1.0 - tanh_c * tanh_c)
    overlap = (f_ * i_)[:, None]
    keep = forget * overlap + (f_[:, None] - overlap)
    write = into * overlap + (i_[:, None] - overlap)
    d_write = through * g
    d_keep = through * old
    tl.store(d_pre + gates, of_h * tanh_c * o * (1.0 - o), mask=inside)
    tl.store(d_pre + gates + width, through * write * (1.0 - g * g), mask=inside)
    tl.store(d_pre + gates + 2 * width, d_write * overlap * into * (1.0 - into), mask=inside)
    tl.store(d_pre + gates + 3 * width, d_keep * overlap * forget * (1.0 - forget), mask=inside)
    tl.store(d_before + at, through * keep, mask=inside)
    # write = into * overlap + (master - overlap), keep likewise: through the masters and through their overlap
    of_in = tl.sum(d_write, 1)
    of_forget = tl.sum(d_keep, 1)
    of_overlap = tl.sum(d_write * into + d_keep * forget, 1) - of_in - of_forget
    tl.store(d_pre + masters, _of_softmax(-(of_in + of_overlap * f_), soft_in), mask=known)
    tl.store(d_pre + masters + chunks, _of_softmax(of_forget + of_overlap * i_, soft_forget), mask=known)


def _each(kernel: Kernel, like: Tensor, *tensors: Tensor, **constants: object) -> None:
    """One program for every `BLOCK` numbers of a (B, H)."""
    units, width = like.numel(), like.shape[1]
    kernel.launch(-(-units // BLOCK), *tensors, units, width, block=BLOCK, **constants)


def highway_forward(pre: Tensor, s: Tensor, out: Tensor) -> None:
    """As `recurrence_kernel.highway_forward`."""
    _each(_highway, s, pre, s, out, free=False)


def highway_backward(d: Tensor, opened: Tensor, s: Tensor, d_pre: Tensor) -> Tensor:
    """As `recurrence_kernel.highway_backward`."""
    direct = torch.empty_like(s)
    _each(_highway_back, s, d.contiguous(), opened, s, d_pre, direct, free=False)
    return direct


def free_highway_forward(pre: Tensor, s: Tensor, out: Tensor) -> None:
    """h = tanh, t and c = sigmoid of the three blocks of pre (B, 3H), in place; out = h * t + s * c, all (B, H)."""
    _each(_highway, s, pre, s, out, free=True)


def free_highway_backward(d: Tensor, opened: Tensor, s: Tensor, d_pre: Tensor) -> Tensor:
    """As `highway_backward`, of `free_highway_forward`."""
    direct = torch.empty_like(s)
    _each(_highway_back, s, d.contiguous(), opened, s, d_pre, direct, free=True)
    return direct


def gates_forward(pre: Tensor, before: Tensor, out: Tensor) -> Tensor:
    """As `recurrence_kernel.gates_forward`."""
    c = torch.empty_like(before)
    _each(_gates, before, pre, before, out, c)
    return c


def gates_backward(
    d_h: Tensor, d_c: Tensor, opened: Tensor, before: Tensor, c: Tensor, d_pre: Tensor
) -> Tensor:
    """As `recurrence_kernel.gates_backward`."""
    d_before = torch.empty_like(before)
    _each(_gates_back, before, d_h, d_c, opened, before, c, d_pre, d_before)
    return d_before


def modrelu_forward(pre: Tensor, bias: Tensor, out: Tensor) -> None:
    """size = max(|pre| + b, 0), in place of pre (B, H); out = sign(pre) * size; b (H,)."""
    _each(_modrelu, out, pre, bias.detach().contiguous(), out)


def _blocks(chunks: int, width: int) -> dict[str, int]:
    many, each = power_above(chunks), power_above(width // chunks)
    return {"many": many, "each": each, "num_warps": min(16, max(4, many * each // WARP_UNITS))}


def ordered_forward(pre: Tensor, before: Tensor, out: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """As `recurrence_kernel.ordered_forward`."""
    (rows, width), c, tanh_c = before.shape, torch.empty_like(before), torch.empty_like(before)
    sizes = _blocks(chunks, width)
    _ordered.launch(rows, pre, before, out, c, tanh_c, chunks, width // chunks, **sizes)
    return c, tanh_c


def ordered_backward(
    gradient: tuple[Tensor, ...], opened: Tensor, before: Tensor, tanh_c: Tensor, d_pre: Tensor, chunks: int
) -> Tensor:
    """As `recurrence_kernel.ordered_backward`."""
    (rows, width), d_before = before.shape, torch.empty_like(before)
    d_h, d_c = (d.contiguous() for d in gradient)
    tensors = (d_h, d_c, opened, before, tanh_c, d_pre, d_before)
    _ordered_back.launch(rows, *tensors, chunks, width // chunks, **_blocks(chunks, width))
    return d_before
