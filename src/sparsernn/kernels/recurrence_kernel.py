"""Compiled inner loops of recurrent layers in training: element-wise rules, and whole windows of narrow layers.

For float32 on the CPU. Each stands beside torch code that gives the same numbers (the rules of `sparsernn.nn` and its
loop over time) and is used where `takes` or `takes_window` says so; they do no checks of their own beyond layout.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.kernels.library import library, loaded

KINDS = {"none": 0, "tanh": 1, "relu": 2, "modrelu": 3}
"""Nonlinearities of `window_forward`, numbered as in window.c."""

TILE = 16
"""Outputs that share a panel of the weight, as in window.c."""

SHARED_FROM = 1 << 15
"""Elements from which a rule is shared out among threads: that many take one thread about 40 us, ten times what it
costs to call the others."""

SHARED_PRODUCTS_FROM = 1 << 20
"""Multiplications in a window from which its sequences are shared out: one thread takes 40 us or more for them."""


class CWindow(ctypes.Structure):
    """`Window` of window.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "bias")),
        *((name, ctypes.c_int32) for name in ("kind", "steps", "batch", "width")),
    )


def takes(pre: Tensor) -> bool:
    """Whether the compiled rules take this pre-activation (B, G): dense float32 on the CPU, and a library is there.

    Example:
        >>> takes(torch.zeros(2, 4, dtype=torch.float64))
        False
    """
    suits = pre.dtype == torch.float32 and pre.device.type == "cpu" and pre.is_contiguous()
    return suits and library() is not None


def _pointers(*tensors: Tensor) -> list[int]:
    """Addresses; the kernels know neither strides nor other types."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise InputError(
                f"a compiled kernel was given {tensor.dtype} of strides {tensor.stride()}; it takes dense float32."
            )
    return [tensor.data_ptr() for tensor in tensors]


def _refuse_unless(suits: bool, pre: Tensor, state: Tensor) -> None:
    if not suits:
        raise InputError(
            f"a pre-activation of shape {tuple(pre.shape)} met a state of shape {tuple(state.shape)}; "
            "both must have a row per sequence, and the gates of every unit."
        )


def _call(name: str, elements: int, tensors: tuple[Tensor, ...], sizes: tuple[int, ...]) -> None:
    """One call of a rule."""
    found = loaded()
    function: Callable[..., None] = getattr(found, name)
    function(*_pointers(*tensors), *sizes, found.threads_between() if elements >= SHARED_FROM else 1)


def highway_forward(pre: Tensor, s: Tensor, out: Tensor) -> None:
    """h = tanh and t = sigmoid of the two halves of pre (B, 2H), in place; out = s + t * (h - s), all (B, H).

    Example:
        >>> out = torch.zeros(1, 1)
        >>> if library(): highway_forward(torch.tensor([[9.0, 0.0]]), out.clone(), out)
        >>> round(out.item(), 4) in (0.5, 0.0)
        True
    """
    _refuse_unless(pre.shape == (s.shape[0], 2 * s.shape[1]) and out.shape == s.shape, pre, s)
    _call("highway_forward", s.numel(), (pre, s, out), (s.shape[0], s.shape[1]))


def highway_backward(d: Tensor, opened: Tensor, s: Tensor, d_pre: Tensor) -> Tensor:
    """Gradient d of out -> that of pre, into d_pre (B, 2H), and that of s (B, H), returned.

    Args:
        d: (B, H).
        opened: pre as `highway_forward` left it.
        s: as `highway_forward` had it.
        d_pre: written to.
    """
    direct = torch.empty_like(s)
    _call("highway_backward", s.numel(), (d, opened, s, d_pre, direct), (s.shape[0], s.shape[1]))
    return direct


def ordered_forward(pre: Tensor, before: Tensor, out: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """The gates of the ordered-neurons LSTM with K chunks: see `sparsernn.nn.cells.onlstm`.

    Args:
        pre: (B, 2K + 4H); the softmaxes and the opened gates replace it.
        before: c (B, H).
        out: h' (B, H), written to.
        chunks: K.

    Returns:
        c' (B, H) and its tanh.
    """
    rows, width = before.shape
    suits = pre.shape == (rows, 2 * chunks + 4 * width) and out.shape == before.shape and not width % chunks
    _refuse_unless(suits, pre, before)
    c, tanh_c = torch.empty_like(before), torch.empty_like(before)
    # five exponentials per unit
    _call(
        "ordered_forward", 2 * before.numel(), (pre, before, out, c, tanh_c), (rows, chunks, width // chunks)
    )
    return c, tanh_c


def ordered_backward(
    gradient: tuple[Tensor, ...], opened: Tensor, before: Tensor, tanh_c: Tensor, d_pre: Tensor, chunks: int
) -> Tensor:
    """Gradients of (h', c') -> that of pre, into d_pre, and that of c (B, H), returned; else as `ordered_forward`."""
    rows, width = before.shape
    d_before = torch.empty_like(before)
    tensors = (gradient[0], gradient[1], opened, before, tanh_c, d_pre, d_before)
    _call("ordered_backward", before.numel(), tensors, (rows, chunks, width // chunks))
    return d_before


def gates_forward(pre: Tensor, before: Tensor, out: Tensor) -> Tensor:
    """One step of the LSTM after its products: see `sparsernn.nn.cells.lstm_gates`.

    Args:
        pre: (B, 4H) in the order i, f, g, o; the opened gates replace it.
        before: c (B, H).
        out: h' (B, H), written to.

    Returns:
        c' (B, H).
    """
    rows, width = before.shape
    _refuse_unless(pre.shape == (rows, 4 * width) and out.shape == before.shape, pre, before)
    c = torch.empty_like(before)
    _call("gates_forward", 2 * before.numel(), (pre, before, out, c), (rows, width))
    return c


def gates_backward(
    d_h: Tensor, d_c: Tensor, opened: Tensor, before: Tensor, c: Tensor, d_pre: Tensor
) -> Tensor:
    """Gradients of (h', c') -> that of pre, into d_pre, and that of c (B, H), returned; else as `gates_forward`."""
    rows, width = before.shape
    _refuse_unless(
        opened.shape == d_pre.shape == (rows, 4 * width) and d_h.shape == before.shape, opened, before
    )
    d_before = d_c.clone()
    _call(
        "gates_backward",
        before.numel(),
        (d_h, opened, before.contiguous(), c, d_before, d_pre),
        (rows, width),
    )
    return d_before


WINDOW_WEIGHTS_UP_TO = 512 * 512
"""Recurrent weights up to which a window runs in one call. Measured forward and back on an AMD EPYC (AVX2, 512 KiB
of second-level cache per core) against the loop over torch's products, 1 to 128 sequences: 128 wide 1.2 to 2.9 times
as fast on one thread, 512 wide 1.03 to 2.4; at 768 with 128 sequences it would be slower."""

WINDOW_STEPS_FROM = 16
"""Steps from which a window runs in one call, for the weight is rearranged first: 512 wide with one sequence, 8 steps
without gradients take 1.3 times as long as the loop, 16 the same, 64 two thirds."""


def takes_window(kind: str, u: Tensor, weight: Tensor, start: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `window_forward` takes these and is the faster way; see there."""
    shape = u.shape[2:]
    return (
        kind in KINDS
        and len(u) >= WINDOW_STEPS_FROM
        and u.numel() > 0
        and weight.numel() <= WINDOW_WEIGHTS_UP_TO
        and weight.shape == shape * 2
        and start.shape == u.shape[1:]
        and all(t.dtype == torch.float32 for t in (weight, start))
        and (bias is None or (bias.dtype == torch.float32 and bias.shape == shape))
        and takes(u)
    )


def _panels(weight: Tensor) -> Tensor:
    """(G, H) -> (ceil(G / 16), H, 16): what 16 outputs need lies together, filled up with zeros."""
    missing = -weight.shape[0] % TILE
    filled = functional.pad(weight, (0, 0, 0, missing)) if missing else weight
    return filled.reshape(-1, TILE, weight.shape[1]).transpose(1, 2).contiguous()


def _window(name: str, kind: str, weight: Tensor, bias: Tensor | None, *tensors: Tensor) -> None:
    """One call for a window; the first tensor has its shape (T, B, H)."""
    found, like = loaded(), tensors[0]
    panels, bias = _panels(weight), None if bias is None else bias.contiguous()
    window = CWindow(panels.data_ptr(), None if bias is None else bias.data_ptr(), KINDS[kind], *like.shape)
    threads = found.threads_between() if like.numel() * like.shape[2] >= SHARED_PRODUCTS_FROM else 1
    getattr(found, name)(ctypes.addressof(window), *_pointers(*tensors), threads)


def window_forward(
    kind: str, u: Tensor, weight: Tensor, start: Tensor, y: Tensor, bias: Tensor | None = None
) -> None:
    """h_t = phi(u_t + V h_(t-1)) for a whole window, into y.

    Args:
        kind: phi, one of `KINDS`.
        u: (T, B, H).
        weight: V (H, H), of any strides.
        start: h before the first step, (B, H).
        y: (T, B, H), written to.
        bias: b (H,) of the modReLU; None otherwise.

    Example:
        >>> y = torch.ones(2, 1, 1)
        >>> if library(): window_forward("none", torch.ones(2, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1), y)
        >>> y.flatten().tolist()
        [1.0, 1.0]
    """
    _window("window_forward", kind, weight, bias, u.contiguous(), start.contiguous(), y)


def window_backward(
    kind: str,
    d_y: Tensor,
    d_last: Tensor,
    weight: Tensor,
    y: Tensor,
    d_pre: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Gradients of y (T, B, H) and of the last state (B, H) -> that of u, into d_pre, and that of start, returned."""
    carry = d_last.clone(memory_format=torch.contiguous_format)
    _window("window_backward", kind, weight.t(), bias, d_y.contiguous(), y, carry, d_pre)
    return carry
