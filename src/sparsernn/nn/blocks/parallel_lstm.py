"""Several LSTMs side by side over one window: how the compiled kernel is driven, and its gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels import lstm_kernel
from sparsernn.kernels.lstm_kernel import Part, Window


def read(parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The window read by the compiled kernel; None where that does not take it, or is the slower way.

    Args:
        parts: the LSTMs.
        x: (T, B, I).
        h: (D, B, H) for D directions.
        c: likewise.

    Returns:
        y (T, B, D H), h and c after the window.

    Example:
        >>> read([], torch.zeros(3, 2, 5), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)) is None
        True
    """
    if is_exporting():  # a graph for other programs holds none of our kernels
        return None
    x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    weights = [weight for part in parts for weight in part[3:]]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h, c, *weights))
    if not lstm_kernel.takes(x, h, c, parts, learns):
        return None
    if learns:
        y, h, c = _Window.apply(parts, x, h, c, *weights)  # type: ignore[no-untyped-call]
        return y, h, c
    with torch.no_grad():
        window = lstm_kernel.window_forward(parts, x, h, c, keep=False)
    return window.y, *window.last(h.shape[2])


def _detached(parts: Sequence[Part], weights: Sequence[Tensor]) -> list[Part]:
    own = iter(weight.detach() for weight in weights)
    return [Part(*part[:3], *fours) for part, *fours in zip(parts, own, own, own, own, strict=True)]


class _Window(torch.autograd.Function):
    """Each weight's gradient is one product over all time steps."""

    @staticmethod
    def forward(
        ctx: Context, parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = _detached(parts, weights)
        window = lstm_kernel.window_forward(parts, x, h, c, keep=True)
        ctx.parts = parts
        ctx.save_for_backward(x, h, c, window.y, window.c, *window.gates, *weights)
        return window.y, *window.last(h.shape[2])

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_y: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, y, cells, *others = ctx.saved_tensors
        parts = ctx.parts
        window = Window(y, cells, others[: len(parts)])
        d_h, d_c = (d.clone(memory_format=torch.contiguous_format) for d in (d_h, d_c))
        d_gates = lstm_kernel.window_backward(parts, window, c, d_y.contiguous(), d_h, d_c)
        d_weights = [
            gradient
            for part, d in zip(parts, d_gates, strict=True)
            for gradient in _of_weights(part, d, x, h, y)
        ]
        d_x = _of_input(parts, d_gates, x) if ctx.needs_input_grad[1] else None
        return None, d_x, d_h, d_c, *d_weights


def _of_weights(part: Part, d: Tensor, x: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the four weights of a part from d (T, B, 4h), that of what its gates read."""
    flat, batch, hidden = d.flatten(0, 1), d.shape[1], h.shape[2]
    units = slice(part.backwards * hidden + part.span.start, part.backwards * hidden + part.span.stop)
    fed = y[..., units].flatten(0, 1) if len(d) > 1 else y[0, :, units]
    first, later = (flat[-batch:], flat[:-batch]) if part.backwards else (flat[:batch], flat[batch:])
    before = fed[batch:] if part.backwards else fed[:-batch]
    recurrent = later.t() @ before
    recurrent.addmm_(first.t(), h[part.backwards][:, part.span.start : part.span.stop])
    inputs = flat.t() @ x.flatten(0, 1)[:, part.window.start : part.window.stop]
    bias = flat.sum(0)
    return inputs, recurrent, bias, bias.clone()


def _of_input(parts: Sequence[Part], d_gates: Sequence[Tensor], x: Tensor) -> Tensor:
    d_x = torch.zeros_like(x)
    flat = d_x.view(-1, x.shape[2])
    for part, d in zip(parts, d_gates, strict=True):
        flat[:, part.window.start : part.window.stop].addmm_(d.flatten(0, 1), part.w_ih)
    return d_x
