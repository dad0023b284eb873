"""Whole windows of ON-LSTM layers on a CUDA device, forth and back in one launch each, by Triton.

As in `sparsernn.kernels.window_triton` a program takes some sequences from the first step to the last. In each step
it first multiplies the rows of the master gates, and hands their running sums on through memory, where every unit
finds those of its chunk; on the way back every chunk finds there what its units say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsernn.kernels import triton_language
from sparsernn.kernels.recurrence_triton import _sigmoid, _tanh
from sparsernn.kernels.triton_language import Kernel, power_above
from sparsernn.kernels.window_triton import _products_back, fits, programs, tiles

tl: Any = None  # triton.language, which `Kernel` puts here

CHUNKS_UP_TO = 128
"""For which a program has sums at a time. With so many the compilers for A100 and H100 keep some of them outside the
registers, with 32 in float32 none."""
LEAST_COLUMNS = 16
"""Of a product, in Triton."""


@Kernel
def _pair(  # type: ignore[no-untyped-def]
    state, inside, w, unit, units, width, precision: tl.constexpr, deep: tl.constexpr
):
    """Rows of the state times the rows that units have in two blocks of the weight, one after the other."""
    first = tl.zeros([inside.shape[0], unit.shape[1]], w.dtype.element_ty)
    second = first
    for begin in range(0, width, deep):
        read = begin + tl.arange(0, deep)
        a = tl.load(state + read[None, :], mask=inside & (read < width)[None, :], other=0.0)
        at = w + unit * width + read[:, None]
        known = (read < width)[:, None] & (unit < units)
        first += tl.dot(a, tl.load(at, mask=known, other=0.0), input_precision=precision)
        v = tl.load(at + units * width, mask=known, other=0.0)
        second += tl.dot(a, v, input_precision=precision)
    return first, second


@Kernel
def _shares(z, there):  # type: ignore[no-untyped-def]
    """Softmax along the chunks."""
    z = tl.where(there, z, -float("inf"))
    grown = tl.exp(z - tl.max(z, 1)[:, None])
    return grown / tl.sum(grown, 1)[:, None]


@Kernel
def _of_shares(d_steps, soft):  # type: ignore[no-untyped-def]
    """Gradient of the running sum of a softmax -> that of what the softmax was taken of."""
    d_soft = tl.sum(d_steps, 1)[:, None] - tl.cumsum(d_steps, 1) + d_steps
    return soft * (d_soft - tl.sum(soft * d_soft, 1)[:, None])


@Kernel
def _opened(gate, master, overlap):  # type: ignore[no-untyped-def]
    return gate * overlap + (master - overlap)


@Kernel
def _ahead_ordered(  # type: ignore[no-untyped-def]
    u, weight, fed, cells, opened, masters, steps, batch, width, chunks, size,
    keep: tl.constexpr, precision: tl.constexpr,
    many: tl.constexpr, each: tl.constexpr, tile: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """fed and cells (T + 1, B, H) are filled from their first entry on; masters (B, 2K) is room."""
    row = tl.program_id(0) * many + tl.arange(0, many)
    inside = (row < batch)[:, None]
    rows = 2 * chunks + 4 * width
    here = row.to(tl.int64)[:, None] * width
    pre = row.to(tl.int64)[:, None] * rows
    own = masters + row.to(tl.int64)[:, None] * (2 * chunks)
    chunk = tl.arange(0, each)[None, :]
    there = chunk < chunks
    w = weight + 2 * chunks * width
    for _ in range(steps):
        come = fed + here
        z_in, z_forget = _pair(come, inside, weight, chunk, chunks, width, precision, deep)
        z_in += tl.load(u + pre + chunk, mask=inside & there, other=0.0)
        z_forget += tl.load(u + pre + chunks + chunk, mask=inside & there, other=0.0)
        soft_in = _shares(z_in, there)
        soft_forget = _shares(z_forget, there)
        if keep:
            tl.store(opened + pre + chunk, soft_in, mask=inside & there)
            tl.store(opened + pre + chunks + chunk, soft_forget, mask=inside & there)
        tl.store(own + chunk, 1.0 - tl.cumsum(soft_in, 1), mask=inside & there)
        tl.store(own + chunks + chunk, tl.cumsum(soft_forget, 1), mask=inside & there)
        tl.debug_barrier()
        for first in range(0, width, tile):
            unit = (first + tl.arange(0, tile))[None, :]
            known = inside & (unit < width)
            at = pre + 2 * chunks + unit
            o, g = _pair(come, inside, w, unit, width, width, precision, deep)
            into, forget = _pair(come, inside, w + 2 * width * width, unit, width, width, precision, deep)
            o = _sigmoid(o + tl.load(u + at, mask=known, other=0.0))
            g = _tanh(g + tl.load(u + at + width, mask=known, other=0.0))
            into = _sigmoid(into + tl.load(u + at + 2 * width, mask=known, other=0.0))
            forget = _sigmoid(forget + tl.load(u + at + 3 * width, mask=known, other=0.0))
            if keep:
                tl.store(opened + at, o, mask=known)
                tl.store(opened + at + width, g, mask=known)
                tl.store(opened + at + 2 * width, into, mask=known)
                tl.store(opened + at + 3 * width, forget, mask=known)
            i_ = tl.load(own + unit // size, mask=known, other=0.0)
            f_ = tl.load(own + chunks + unit // size, mask=known, other=0.0)
            c = _opened(forget, f_, f_ * i_) * tl.load(cells + here + unit, mask=known, other=0.0)
            c += _opened(into, i_, f_ * i_) * g
            tl.store(cells + here + batch * width + unit, c, mask=known)
            tl.store(fed + here + batch * width + unit, o * _tanh(c), mask=known)
        tl.debug_barrier()
        here += batch * width
        pre += batch * rows


@Kernel
def _back_units(  # type: ignore[no-untyped-def]
    of_h, d_c, before, after, gates, i_, f_, d_gates, by_unit, known, width
):
    """Back through the gates of some units: of_h and the shares i_ and f_ are numbers, all else is where they lie."""
    o = tl.load(gates, mask=known, other=0.0)
    g = tl.load(gates + width, mask=known, other=0.0)
    into = tl.load(gates + 2 * width, mask=known, other=0.0)
    forget = tl.load(gates + 3 * width, mask=known, other=0.0)
    tanh_c = _tanh(tl.load(after, mask=known, other=0.0))
    through = tl.load(d_c, mask=known, other=0.0) + of_h * o * (1.0 - tanh_c * tanh_c)
    overlap = f_ * i_
    d_write = through * g
    d_kept = through * tl.load(before, mask=known, other=0.0)
    tl.debug_barrier()  # d_c is overwritten
    tl.store(d_gates, of_h * tanh_c * o * (1.0 - o), mask=known)
    tl.store(d_gates + width, through * _opened(into, i_, overlap) * (1.0 - g * g), mask=known)
    tl.store(d_gates + 2 * width, d_write * overlap * into * (1.0 - into), mask=known)
    tl.store(d_gates + 3 * width, d_kept * overlap * forget * (1.0 - forget), mask=known)
    tl.store(d_c, through * _opened(forget, f_, overlap), mask=known)
    tl.store(by_unit, d_write, mask=known)
    tl.store(by_unit + width, d_kept, mask=known)


@Kernel
def _of_chunks(gates, by_unit, chunk, known, width, size):  # type: ignore[no-untyped-def]
    """What the units of each chunk say of its master gates, and of their overlap."""
    of_in = tl.load(by_unit + chunk * size, mask=known, other=0.0)
    of_forget = tl.load(by_unit + width + chunk * size, mask=known, other=0.0)
    into = tl.load(gates + 2 * width + chunk * size, mask=known, other=0.0)
    forget = tl.load(gates + 3 * width + chunk * size, mask=known, other=0.0)
    of_overlap = of_in * (into - 1.0) + of_forget * (forget - 1.0)
    for number in range(1, size):
        unit = chunk * size + number
        d_write = tl.load(by_unit + unit, mask=known, other=0.0)
        d_kept = tl.load(by_unit + width + unit, mask=known, other=0.0)
        into = tl.load(gates + 2 * width + unit, mask=known, other=0.0)
        forget = tl.load(gates + 3 * width + unit, mask=known, other=0.0)
        of_in += d_write
        of_forget += d_kept
        of_overlap += d_write * (into - 1.0) + d_kept * (forget - 1.0)
    return of_in, of_forget, of_overlap


@Kernel
def _back_ordered(  # type: ignore[no-untyped-def]
    d_y, weight, cells, opened, d_pre, d_h, d_c, masters, passed, steps, batch, width, chunks, size,
    precision: tl.constexpr, many: tl.constexpr, each: tl.constexpr, tile: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """d_h and d_c (B, H) hold the gradients of the last state and in the end those of the first; masters (B, 2K) and
    passed (B, 2H) are room."""
    row = tl.program_id(0) * many + tl.arange(0, many)
    inside = (row < batch)[:, None]
    rows = 2 * chunks + 4 * width
    own = row.to(tl.int64)[:, None] * width
    sums = masters + row.to(tl.int64)[:, None] * (2 * chunks)
    by_unit = passed + row.to(tl.int64)[:, None] * (2 * width)
    last = tl.full([many, 1], steps - 1, tl.int64)
    here = own + last * (batch * width)
    pre = row.to(tl.int64)[:, None] * rows + last * (batch * rows)
    chunk = tl.arange(0, each)[None, :]
    there = inside & (chunk < chunks)
    for _ in range(steps):
        soft_in = tl.load(opened + pre + chunk, mask=there, other=0.0)
        soft_forget = tl.load(opened + pre + chunks + chunk, mask=there, other=0.0)
        all_in = 1.0 - tl.cumsum(soft_in, 1)
        all_forget = tl.cumsum(soft_forget, 1)
        tl.store(sums + chunk, all_in, mask=there)
        tl.store(sums + chunks + chunk, all_forget, mask=there)
        tl.debug_barrier()
        gates = pre + 2 * chunks
        for first in range(0, width, tile):
            unit = (first + tl.arange(0, tile))[None, :]
            known = inside & (unit < width)
            of_h = tl.load(d_h + own + unit, mask=known, other=0.0)
            of_h += tl.load(d_y + here + unit, mask=known, other=0.0)
            i_ = tl.load(sums + unit // size, mask=known, other=0.0)
            f_ = tl.load(sums + chunks + unit // size, mask=known, other=0.0)
            before = cells + here + unit
            after = before + batch * width
            open_ = opened + gates + unit
            to = d_pre + gates + unit
            _back_units(
                of_h, d_c + own + unit, before, after, open_, i_, f_, to, by_unit + unit, known, width
            )
        tl.debug_barrier()
        of_in, of_forget, of_overlap = _of_chunks(opened + gates, by_unit, chunk, there, width, size)
        d_in = _of_shares(-(of_in + of_overlap * all_forget), soft_in)
        d_forget = _of_shares(of_forget + of_overlap * all_in, soft_forget)
        tl.store(d_pre + pre + chunk, d_in, mask=there)
        tl.store(d_pre + pre + chunks + chunk, d_forget, mask=there)
        tl.debug_barrier()
        for first in range(0, width, tile):  # and through the product
            unit = (first + tl.arange(0, tile))[None, :]
            back = _products_back(d_pre + pre, inside, weight, unit, rows, width, precision, deep)
            tl.store(d_h + own + unit, back, mask=inside & (unit < width))
        tl.debug_barrier()
        here -= batch * width
        pre -= batch * rows


def takes(chunks: int, u: Tensor, weight: Tensor, state: tuple[Tensor, ...]) -> bool:
    """Whether the kernels take a window: float32 or float64 on a CUDA device, all of one type, that `fits`.

    Args:
        chunks: K.
        u: (T, B, 2K + 4H).
        weight: (2K + 4H, H).
        state: h and c before the first step, (B, H) each.

    Example:
        >>> takes(2, torch.zeros(3, 2, 20), torch.zeros(20, 4), (torch.zeros(2, 4), torch.zeros(2, 4)))
        False
    """
    if not (triton_language.takes(u, weight, *state) and triton_language.multiplies(u.dtype)):
        return False
    width = state[0].shape[-1]
    alike = all(t.dtype == u.dtype for t in (weight, *state)) and weight.shape == (u.shape[-1], width)
    return alike and u.shape[-1] == 2 * chunks + 4 * width and chunks <= CHUNKS_UP_TO and fits(u, [weight])


def _sizes(chunks: int) -> dict[str, object]:
    return {**tiles(), "each": max(LEAST_COLUMNS, power_above(chunks))}


def forward(chunks: int, u: Tensor, weight: Tensor, fed: Tensor, cells: Tensor, keep: bool) -> Tensor | None:
    """All steps of a window.

    Args:
        chunks: K.
        u: (T, B, 2K + 4H), what each step adds to its product; blocks as `sparsernn.nn.ONLSTM` has them.
        weight: (2K + 4H, H).
        fed: (T + 1, B, H): the first h, and room for those after all steps.
        cells: the same for c.
        keep: whether `backward` is going to follow.

    Returns:
        Where it is kept, all pre-activations with their nonlinearities applied (T, B, 2K + 4H): of the master gates
        the softmax.

    Example:
        >>> forward(2, torch.zeros(0, 2, 20), torch.zeros(20, 4), *torch.zeros(2, 1, 2, 4), True).shape
        torch.Size([0, 2, 20])
    """
    (steps, batch, _), width = u.shape, weight.shape[1]
    u, weight = u.contiguous(), weight.contiguous()
    opened = torch.empty_like(u) if keep else None
    room = u.new_empty(batch, 2 * chunks)
    given = (u, weight, fed, cells, u if opened is None else opened, room)
    numbers = (steps, batch, width, chunks, width // chunks)
    _ahead_ordered.launch(programs(steps, batch), *given, *numbers, keep=keep, **_sizes(chunks))
    return opened


def backward(
    chunks: int,
    d_y: Tensor,
    d_last: tuple[Tensor, ...],
    weight: Tensor,
    cells: Tensor,
    opened: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Back through a window.

    Args:
        chunks: K.
        d_y: gradient of the outputs (T, B, H).
        d_last: those of the last h and c (B, H).
        weight: as `forward` had it.
        cells: as `forward` left it.
        opened: what it returned.

    Returns:
        Gradients of all pre-activations (T, B, 2K + 4H), which are those of u; and of the first h and c.

    Example:
        >>> d, cells, opened = torch.zeros(0, 2, 4), torch.zeros(1, 2, 4), torch.zeros(0, 2, 20)
        >>> backward(2, d, (torch.ones(2, 4), torch.zeros(2, 4)), torch.zeros(20, 4), cells, opened)[1][0].sum()
        tensor(8.)
    """
    (steps, batch, width), weight = d_y.shape, weight.contiguous()
    d_h, d_c = (d.clone(memory_format=torch.contiguous_format) for d in d_last)
    d_pre, room = torch.empty_like(opened), d_y.new_empty(batch, 2 * chunks)
    given = (d_y.contiguous(), weight, cells, opened, d_pre, d_h, d_c, room, d_y.new_empty(batch, 2 * width))
    numbers = (steps, batch, width, chunks, width // chunks)
    _back_ordered.launch(programs(steps, batch), *given, *numbers, **_sizes(chunks))
    return d_pre, (d_h, d_c)
