"""Whole windows of recurrent layers on a CUDA device, forth and back in one launch each, by Triton.

A program takes some sequences from the first step to the last and meets no other program: sequences know nothing of
each other, so that nothing has to wait for the whole card between two steps. It reads the recurrent weight again at
every step, from the cache of the card, and hands the state on through memory that only it writes: each of its threads
holds another part of the state than it reads next, so that a barrier stands between writing and reading. Loops are
not pipelined (`num_stages` 1), or Triton might read ahead of what is being written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsernn.kernels import triton_language
from sparsernn.kernels.recurrence_triton import _sigmoid, _tanh
from sparsernn.kernels.triton_language import Kernel

tl: Any = None  # triton.language, which `Kernel` puts here

KINDS = {"none": 0, "tanh": 1, "relu": 2, "modrelu": 3, "highway": 4, "free_highway": 5}
"""Rules between two products: the first four are those of `recurrence_kernel.KINDS`, then those of the RHN."""
GATES = (1, 1, 1, 1, 2, 3)
"""Blocks of rows of the weight, for each of them."""

WEIGHT_UP_TO = 2**20
"""Bytes of a recurrent weight (where a step has several, of the largest) up to which it fits. A multiprocessor reads
at most 64 bytes a clock from the second-level cache, which is 10 us for as many at 1.6 GHz, about what the two
launches of a step take that are saved. Reckoned, not measured: whether a window is taken is measured on the card."""
NUMBERS_UP_TO = 2**31 - 1
"""In the pre-activations of a window, which the kernels count in 32 bits."""

ROWS = 16
"""Sequences of a program; Triton's products take 16 at least."""
TILE = 64
"""Units for which a program has sums at a time, for each gate."""
DEEP = 32
"""Units that are multiplied at a time."""
WARPS = 8
"""Of 32 threads, in a program. With four the compiler for H100 keeps numbers of RHN rules outside the registers."""


@Kernel
def _products(  # type: ignore[no-untyped-def]
    state, mask, inside, w, unit, width,
    gates: tl.constexpr, masked: tl.constexpr, precision: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """Rows of the state (and of the mask) times those rows of the weight that units of up to three gates have."""
    h = tl.zeros([inside.shape[0], unit.shape[1]], w.dtype.element_ty)
    t = h
    c = h
    for begin in range(0, width, deep):
        read = begin + tl.arange(0, deep)
        known = inside & (read < width)[None, :]
        a = tl.load(state + read[None, :], mask=known, other=0.0)
        if masked:
            a = a * tl.load(mask + read[None, :], mask=known, other=0.0)
        at = w + unit * width + read[:, None]
        known_w = (read < width)[:, None] & (unit < width)
        h += tl.dot(a, tl.load(at, mask=known_w, other=0.0), input_precision=precision)
        if gates > 1:
            v = tl.load(at + width * width, mask=known_w, other=0.0)
            t += tl.dot(a, v, input_precision=precision)
        if gates > 2:
            v = tl.load(at + 2 * width * width, mask=known_w, other=0.0)
            c += tl.dot(a, v, input_precision=precision)
    return h, t, c


@Kernel
def _elman(h, b, unit, width, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    if kind == 1:
        h = _tanh(h)
    if kind == 2:
        h = tl.where(h <= 0.0, 0.0, h)  # what is not a number stays none
    if kind == 3:
        grown = tl.abs(h) + tl.load(b + unit, mask=unit < width, other=0.0)
        size = tl.where(grown > 0.0, grown, grown * 0.0)
        h = tl.where(h > 0.0, size, tl.where(h < 0.0, -size, h * 0.0))
    return h


@Kernel
def _ahead_window(  # type: ignore[no-untyped-def]
    u, weight, bias, mask, fed, opened, steps, batch, width, depth,
    kind: tl.constexpr, gates: tl.constexpr, masked: tl.constexpr, keep: tl.constexpr,
    precision: tl.constexpr, many: tl.constexpr, tile: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """fed (T K + 1, B, H) is filled from its first entry on; opened (K, T, B, G) where it is kept."""
    row = tl.program_id(0) * many + tl.arange(0, many)
    inside = (row < batch)[:, None]
    here = row.to(tl.int64)[:, None] * width
    pre = row.to(tl.int64)[:, None] * (gates * width)
    own = here
    for _ in range(steps):
        plane = pre
        for k in range(depth):
            w = weight + k * (gates * width * width)
            b = bias + k * (gates * width)
            for first in range(0, width, tile):
                unit = (first + tl.arange(0, tile))[None, :]
                known = inside & (unit < width)
                h, t, c = _products(
                    fed + here, mask + own, inside, w, unit, width, gates, masked, precision, deep
                )
                come = u + pre + unit
                h += tl.load(come, mask=known & (k == 0), other=0.0)  # later stages have a bias instead
                if kind < 4:
                    after = _elman(h, b, unit, width, kind)
                else:
                    h += tl.load(b + unit, mask=unit < width, other=0.0)
                    t += tl.load(come + width, mask=known & (k == 0), other=0.0)
                    t += tl.load(b + width + unit, mask=unit < width, other=0.0)
                    h = _tanh(h)
                    t = _sigmoid(t)
                    before = tl.load(fed + here + unit, mask=known, other=0.0)
                    if kind == 5:
                        c += tl.load(come + 2 * width, mask=known & (k == 0), other=0.0)
                        c = _sigmoid(c + tl.load(b + 2 * width + unit, mask=unit < width, other=0.0))
                        after = h * t + before * c
                    else:
                        after = before + t * (h - before)
                    if keep:
                        tl.store(opened + plane + unit, h, mask=known)
                        tl.store(opened + plane + width + unit, t, mask=known)
                        if kind == 5:
                            tl.store(opened + plane + 2 * width + unit, c, mask=known)
                tl.store(fed + here + batch * width + unit, after, mask=known)
            here += batch * width
            plane += steps * batch * (gates * width)
            tl.debug_barrier()
        pre += batch * (gates * width)


@Kernel
def _products_back(  # type: ignore[no-untyped-def]
    d_pre, inside, w, unit, rows, width, precision: tl.constexpr, deep: tl.constexpr
):
    """Rows of the gradients of all gates times the columns of the weight that units have."""
    sums = tl.zeros([inside.shape[0], unit.shape[1]], w.dtype.element_ty)
    for begin in range(0, rows, deep):
        read = begin + tl.arange(0, deep)
        there = read < rows
        a = tl.load(d_pre + read[None, :], mask=inside & there[None, :], other=0.0)
        at = w + read[:, None] * width + unit
        v = tl.load(at, mask=there[:, None] & (unit < width), other=0.0)
        sums += tl.dot(a, v, input_precision=precision)
    return sums


@Kernel
def _elman_back(d, y, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    if kind == 1:
        d = d * (1.0 - y * y)
    if kind == 2:
        d = tl.where(y <= 0.0, 0.0, d)
    if kind == 3:
        d = tl.where(y == 0.0, 0.0, d)
    return d


@Kernel
def _back_window(  # type: ignore[no-untyped-def]
    d_y, weight, mask, fed, opened, d_pre, carry, passed, steps, batch, width, depth,
    kind: tl.constexpr, gates: tl.constexpr, masked: tl.constexpr,
    precision: tl.constexpr, many: tl.constexpr, tile: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """carry (B, H) holds the gradient of the last state and in the end that of the first; passed (B, H) is room."""
    row = tl.program_id(0) * many + tl.arange(0, many)
    inside = (row < batch)[:, None]
    own = row.to(tl.int64)[:, None] * width
    last = tl.full([many, 1], steps - 1, tl.int64)
    come = own + last * (batch * width)
    here = own + (last * depth + (depth - 1)) * (batch * width)
    plane = row.to(tl.int64)[:, None] * (gates * width) + last * (batch * (gates * width))
    plane += tl.full([many, 1], depth - 1, tl.int64) * (steps * batch * (gates * width))
    for _ in range(steps):
        for number in range(depth):
            w = weight + (depth - 1 - number) * (gates * width * width)
            for first in range(0, width, tile):  # back through the rule
                unit = (first + tl.arange(0, tile))[None, :]
                known = inside & (unit < width)
                d = tl.load(carry + own + unit, mask=known, other=0.0)
                d += tl.load(d_y + come + unit, mask=known & (number == 0), other=0.0)
                to = d_pre + plane + unit
                if kind < 4:
                    y = tl.load(fed + here + batch * width + unit, mask=known, other=0.0)
                    tl.store(to, _elman_back(d, y, kind), mask=known)
                else:
                    h = tl.load(opened + plane + unit, mask=known, other=0.0)
                    t = tl.load(opened + plane + width + unit, mask=known, other=0.0)
                    before = tl.load(fed + here + unit, mask=known, other=0.0)
                    tl.store(to, d * t * (1.0 - h * h), mask=known)
                    if kind == 5:
                        c = tl.load(opened + plane + 2 * width + unit, mask=known, other=0.0)
                        tl.store(to + width, d * h * t * (1.0 - t), mask=known)
                        tl.store(to + 2 * width, d * before * c * (1.0 - c), mask=known)
                        tl.store(passed + own + unit, d * c, mask=known)
                    else:
                        tl.store(to + width, d * (h - before) * t * (1.0 - t), mask=known)
                        tl.store(passed + own + unit, d - d * t, mask=known)
            tl.debug_barrier()
            for first in range(0, width, tile):  # and through the product
                unit = (first + tl.arange(0, tile))[None, :]
                known = inside & (unit < width)
                sums = _products_back(d_pre + plane, inside, w, unit, gates * width, width, precision, deep)
                if masked:
                    sums = sums * tl.load(mask + own + unit, mask=known, other=0.0)
                if kind > 3:
                    sums += tl.load(passed + own + unit, mask=known, other=0.0)
                tl.store(carry + own + unit, sums, mask=known)
            tl.debug_barrier()
            here -= batch * width
            plane -= steps * batch * (gates * width)
        come -= batch * width
        plane += depth * (steps * batch * (gates * width)) - batch * (gates * width)


def fits(u: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether windows of this size are for the kernels.

    Args:
        u: (T, B, G).
        weights: (G, H) each.

    Example:
        >>> u, small, large = torch.zeros(3, 2, 512), torch.zeros(512, 512), torch.zeros(1024, 1024)
        >>> fits(u, [small]), fits(u, [large])
        (True, False)
    """
    size = max(weight.numel() * weight.element_size() for weight in weights)
    return size <= WEIGHT_UP_TO and u.numel() > 0 and u.numel() * len(weights) <= NUMBERS_UP_TO


def takes(kind: str | None, u: Tensor, weights: Sequence[Tensor], start: Tensor) -> bool:
    """Whether the kernels take a window: float32 or float64 on a CUDA device, all of one type, that `fits`.

    Example:
        >>> takes("tanh", torch.zeros(3, 2, 4), [torch.zeros(4, 4)], torch.zeros(2, 4))
        False
    """
    if kind is None or not triton_language.takes(u, start, *weights):
        return False
    shape = (GATES[KINDS[kind]] * start.shape[-1], start.shape[-1])
    alike = all(weight.shape == shape and weight.dtype == u.dtype for weight in weights)
    alike = alike and triton_language.multiplies(u.dtype)
    return alike and start.dtype == u.dtype and u.shape == (len(u), len(start), shape[0]) and fits(u, weights)


def programs(steps: int, batch: int) -> int:
    """How many share the sequences of a batch; none where there is no step.

    Example:
        >>> programs(7, 17), programs(0, 17)
        (2, 0)
    """
    return -(-batch // ROWS) if steps else 0


def tiles() -> dict[str, object]:
    """What kernels of whole windows are compiled for, whatever their rule.

    Example:
        >>> tiles()["num_stages"]
        1
    """
    sizes = {"many": ROWS, "tile": TILE, "deep": DEEP, "num_warps": WARPS, "num_stages": 1}
    return {"precision": triton_language.precision(), **sizes}


def _sizes(kind: str, mask: Tensor | None) -> dict[str, object]:
    number = KINDS[kind]
    return {"kind": number, "gates": GATES[number], "masked": mask is not None, **tiles()}


def forward(
    kind: str, u: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, fed: Tensor, keep: bool
) -> Tensor | None:
    """All steps of a window, and all stages of each.

    Args:
        kind: the rule after each product, one of `KINDS`.
        u: (T, B, G), what the first stage adds to its product.
        weight: (K, G, H), of the K stages of a step, one after the other.
        bias: (K, G), what stages add besides; for "modrelu" the bias b (H,) of the rule; None for zeros.
        mask: (B, H), what the state is multiplied with before each product; None for ones.
        fed: (T K + 1, B, H): the first state, and room for those after all stages of all steps.
        keep: whether `backward` is going to follow.

    Returns:
        For the rules of the RHN, where it is kept, the gates (K, T, B, G); None for others, which need nothing more.

    Example:
        >>> forward("tanh", torch.zeros(0, 2, 4), torch.zeros(1, 4, 4), None, None, torch.zeros(1, 2, 4), True)
    """
    (steps, batch, rows), (depth, _, width) = u.shape, weight.shape
    kept = keep and KINDS[kind] > KINDS["modrelu"]
    opened = u.new_empty(depth, steps, batch, rows) if kept else None
    if bias is None:
        bias = u.new_zeros(depth * rows)
    u, weight, bias = u.contiguous(), weight.contiguous(), bias.contiguous()
    given = (
        u,
        weight,
        bias,
        fed if mask is None else mask.contiguous(),
        fed,
        fed if opened is None else opened,
    )
    sizes = {"keep": kept, **_sizes(kind, mask)}
    _ahead_window.launch(programs(steps, batch), *given, steps, batch, width, depth, **sizes)
    return opened


def backward(
    kind: str,
    gradients: tuple[Tensor, Tensor],
    weight: Tensor,
    mask: Tensor | None,
    fed: Tensor,
    opened: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Back through a window.

    Args:
        kind: as `forward` had it.
        gradients: of the outputs (T, B, H) and of the last state (B, H).
        weight: as `forward` had it.
        mask: likewise.
        fed: as `forward` left it.
        opened: what it returned.

    Returns:
        Gradients of all pre-activations (K, T, B, G), the first of them that of u; and of the first state (B, H).

    Example:
        >>> d, fed = torch.zeros(0, 2, 4), torch.zeros(1, 2, 4)
        >>> backward("tanh", (d, torch.ones(2, 4)), torch.zeros(1, 4, 4), None, fed, None)[1].sum()
        tensor(8.)
    """
    d_y, weight = gradients[0].contiguous(), weight.contiguous()
    (steps, batch, width), (depth, rows, _) = d_y.shape, weight.shape
    carry = gradients[1].clone(memory_format=torch.contiguous_format)
    d_pre, passed = d_y.new_empty(depth, steps, batch, rows), torch.empty_like(carry)
    like = (fed if mask is None else mask.contiguous(), fed, fed if opened is None else opened)
    given = (d_y, weight, *like, d_pre, carry, passed, steps, batch, width, depth)
    _back_window.launch(programs(steps, batch), *given, **_sizes(kind, mask))
    return d_pre, carry
