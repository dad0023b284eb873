"""Compiled windows of several LSTMs side by side: all steps in one call, forward and back.

For float32 on the CPU. The twin is one of torch's LSTMs after the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.core.onednn import onednn
from sparsernn.kernels.library import library, loaded

LEAST = 16
"""Units and inputs of every LSTM; the widest vector has 16 numbers."""

LARGE = 10**9
"""Multiplications in a window of one LSTM from which torch's kernel is as fast or faster in training: at batch 20 and
window 70, 400 -> 3 x 575 and 1349 -> 2 x 200 take 1.10 and 1.15 times its time (AMD EPYC, AVX2, torch 2.13)."""

HELD = 60
"""Rows (steps times sequences) whose gates are held at a time where no backward pass follows: as many vectors as the
second-level cache keeps while the rearranged weight of the inputs passes. 30 and 120 take as long within a tenth."""

READ_UP_TO = 48
"""Rows up to which the call projects the inputs itself where all gates are kept; for more, torch's products do."""

PANELS_FROM = (8, 2)
"""Steps and sequences from which the recurrent weight is rearranged first, which costs about two steps. Products of
20 sequences with three weights of 2304 x 576 then take 0.8 times as long, of 10 sequences 0.73 (AMD EPYC, AVX2)."""

SHARED_FROM = 1 << 19
"""Multiplications in a time step from which it is shared out among threads: one takes 20 us or more."""


class Part(NamedTuple):
    """One of the LSTMs: the columns of the input that it reads, its units, its direction, and its parameters."""

    window: range
    span: range
    backwards: int
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor
    b_hh: Tensor


class CStrand(ctypes.Structure):
    """`Strand` of lstm.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "x", "x_weight", "h0", "c0", "d_y")),
        *(
            (name, ctypes.c_void_p)
            for name in ("panels", "x_panels", "gates", "y", "c", "d_pre", "d_h", "d_c")
        ),
        *((name, ctypes.c_int32) for name in ("width", "inputs", "reverse", "unused")),
    )


class CSide(ctypes.Structure):
    """`Side` of lstm.c."""

    _fields_ = (
        ("strand", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("strands", "steps", "batch", "x_stride", "y_stride", "c_step")),
        *((name, ctypes.c_int32) for name in ("state_stride", "held")),
    )


def takes(x: Tensor, h: Tensor, c: Tensor, parts: Sequence[Part], learns: bool = False) -> bool:
    """Whether the compiled window takes these and is the faster way.

    It takes dense float32 on the CPU, and no LSTM that is too narrow, where there is a library.

    Example:
        >>> state = torch.zeros(1, 2, 4)
        >>> takes(torch.zeros(3, 2, 5, dtype=torch.float64), state, state, [])
        False
    """
    if library() is None or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = [x, h, c, *(weight for part in parts for weight in part[3:])]
    wide = all(min(len(part.window), len(part.span)) >= LEAST for part in parts)
    known = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return wide and known and bool(parts) and x.numel() > 0 and not (learns and _is_large(x, parts))


def _is_large(x: Tensor, parts: Sequence[Part]) -> bool:
    rows = x.shape[0] * x.shape[1]
    return rows * max(part.w_ih.numel() + part.w_hh.numel() for part in parts) >= LARGE


class Window(NamedTuple):
    """What a window leaves: y (T, B, D H), the cells c likewise and the open gates, or only the last of both."""

    y: Tensor
    c: Tensor
    gates: list[Tensor]

    def last(self, hidden: int) -> tuple[Tensor, Tensor]:
        """The states after the last step that each direction reads, (D, B, H) each."""
        if self.y.shape[-1] == hidden:
            return self.y[-1:].clone(), self.c[-1:].clone()
        ends = [(-1, 0), (0, 1)]
        columns = [(end, slice(at * hidden, (at + 1) * hidden)) for end, at in ends]
        h = torch.stack([self.y[end, :, own] for end, own in columns])
        return h, torch.stack([self.c[end if len(self.c) > 1 else 0, :, own] for end, own in columns])


def window_forward(parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor, keep: bool) -> Window:
    """All steps of all parts.

    Args:
        parts: side by side; `takes` accepts them.
        x: (T, B, I).
        h: before the window, (D, B, H) for D directions.
        c: likewise.
        keep: whether the cells and gates of all steps are wanted, which `window_backward` needs.
    """
    steps, batch, inputs = x.shape
    wide = h.shape[0] * h.shape[2]
    y, cells = x.new_empty(steps, batch, wide), x.new_empty(steps if keep else 1, batch, wide)
    rows, strands, gates, biases, room = x.view(-1, inputs), [], [], [], []
    given, held = keep and len(rows) > READ_UP_TO, steps if keep else min(steps, max(1, HELD // batch))
    arranged = steps >= PANELS_FROM[0] and batch >= PANELS_FROM[1]
    x_arranged = not given and (arranged or len(rows) > READ_UP_TO)
    for part in parts:
        own = _projected(rows, part) if given else x.new_empty(held * batch, 4 * len(part.span))
        gates.append(own.view(-1, batch, own.shape[1]))
        room.append((_panels(part.w_hh, arranged), _panels(part.w_ih, x_arranged)))
        biases.append(part.b_ih + part.b_hh)
        column, state = _columns(part, h)
        strands.append(
            CStrand(
                weight=part.w_hh.data_ptr(),
                panels=room[-1][0].data_ptr() or None,
                x_panels=room[-1][1].data_ptr() or None,
                bias=biases[-1].data_ptr(),
                x=None if given else x.data_ptr() + 4 * part.window.start,
                x_weight=part.w_ih.data_ptr(),
                h0=h.data_ptr() + state,
                c0=c.data_ptr() + state,
                gates=own.data_ptr(),
                y=y.data_ptr() + column,
                c=cells.data_ptr() + column,
                width=len(part.span),
                inputs=len(part.window),
                reverse=part.backwards,
            )
        )
    sizes = steps, batch, inputs, wide, batch * wide * keep, h.shape[2], held
    _call("lstm_forward", parts, strands, sizes)
    return Window(y, cells, gates)


def window_backward(
    parts: Sequence[Part], window: Window, c: Tensor, d_y: Tensor, d_h: Tensor, d_c: Tensor
) -> list[Tensor]:
    """Gradients of y (T, B, D H) and of the last states (D, B, H) -> those of what every part's gates read.

    Args:
        parts: as in `window_forward`.
        window: what it returned, with all cells.
        c: before the window.
        d_y: dense.
        d_h: dense; the gradient of the state before the window replaces it.
        d_c: likewise.

    Returns:
        (T, B, 4 h) for every part.
    """
    steps, batch, wide = window.y.shape
    hidden, strands, room, made = c.shape[2], [], [], []
    for at, end in enumerate([-1, 0][: len(d_h)]):
        d_h[at] += d_y[end, :, at * hidden : (at + 1) * hidden]
    for part, gates in zip(parts, window.gates, strict=True):
        room.append(_panels(part.w_hh, True))
        made.append(torch.empty_like(gates))
        column, state = _columns(part, c)
        strands.append(
            CStrand(
                weight=part.w_hh.data_ptr(),
                panels=room[-1].data_ptr(),
                c0=c.data_ptr() + state,
                d_y=d_y.data_ptr() + column,
                gates=gates.data_ptr(),
                c=window.c.data_ptr() + column,
                d_pre=made[-1].data_ptr(),
                d_h=d_h.data_ptr() + state,
                d_c=d_c.data_ptr() + state,
                width=len(part.span),
                reverse=part.backwards,
            )
        )
    _call("lstm_backward", parts, strands, (steps, batch, 0, wide, batch * wide, hidden, steps))
    return made


def _projected(rows: Tensor, part: Part) -> Tensor:
    """What the inputs (rows, I) give, by oneDNN where it is in use: 1.06 times as fast as torch's product."""
    read = rows[:, part.window.start : part.window.stop]
    if not (onednn.is_available() and onednn.enabled):
        return read @ part.w_ih.t()
    weight = torch.ops.mkldnn._reorder_linear_weight(part.w_ih, len(rows))
    made: Tensor = torch.ops.mkldnn._linear_pointwise(read, weight, None, "none", [], "")
    return made


def _panels(weight: Tensor, wanted: bool) -> Tensor:
    """Room for a weight (4 h, .), or its transpose, rearranged; none where that is not wanted."""
    rows, columns = weight.shape
    return weight.new_empty(4 * columns * -(-rows // 64) * 16 if wanted else 0)


def _columns(part: Part, state: Tensor) -> tuple[int, int]:
    """Bytes from the start of an output (T, B, D H), and of a state (D, B, H), to the part's first number."""
    _, batch, hidden = state.shape
    return 4 * (part.backwards * hidden + part.span.start), 4 * (
        part.backwards * batch * hidden + part.span.start
    )


def _call(name: str, parts: Sequence[Part], strands: list[CStrand], sizes: tuple[int, ...]) -> None:
    found = loaded()
    array = (CStrand * len(strands))(*strands)
    side = CSide(ctypes.addressof(array), len(strands), *sizes)
    reads = any(strand.x for strand in strands)
    products = sizes[1] * sum(part.w_hh.numel() + reads * part.w_ih.numel() for part in parts)
    threads = found.threads_between() if products >= SHARED_FROM else 1
    getattr(found, name)(ctypes.addressof(side), threads)
