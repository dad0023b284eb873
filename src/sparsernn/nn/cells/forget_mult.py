"""The recurrence of quasi-recurrent layers as an operation of its own: c_t = a_t c_(t-1) + b_t, element by element.

It is a custom operator of torch, known to its compiler and its exporters; a call costs 0.1 ms more than a plain
autograd function, once per window and not per time step. Three ways of working it out give the same numbers: a
compiled kernel (one pass over memory each way), a loop over time in torch, and a scan by chunks in torch for long
sequences of few channels. On a CUDA device Triton kernels are used where Triton is installed.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.autograd_context import Context, Gradients, differentiable_once
from sparsernn.core.errors import InputError
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels import forget_kernel, forget_triton, triton_language

LOOP_STEPS_UP_TO = 64
LOOP_CHANNELS_FROM = 512
"""In torch, so few steps or so many channels B H are looped over, longer and narrower ones go by chunks. Measured
forwards on one thread of an AMD EPYC: 1000 steps of 50 channels take 5.1 ms looped and 0.5 by chunks, of 512 channels
8.7 and 16.4; 64 steps of 50 channels 0.35 and 0.26."""


def forget_mult(f: Tensor, z: Tensor, c0: Tensor | None = None) -> Tensor:
    """c_t = f_t z_t + (1 - f_t) c_(t-1), with exact gradients to f, z and c0.

    f is the gate that WRITES, as in the published codes; the paper's f is 1 minus this one.

    Args:
        f: (T, B, H), usually in [0, 1]; 0 keeps the old value to the bit, 1 takes the new one to the bit.
        z: (T, B, H).
        c0: c before the first step, (B, H) or (1, B, H); zeros when missing.

    Returns:
        c (T, B, H); c[-1] is the state to carry on with. Half-precision inputs are summed up in float32.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> f = torch.tensor([0.5, 0.0, 1.0]).view(3, 1, 1)
        >>> forget_mult(f, torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)).flatten().tolist()
        [2.0, 2.0, 6.0]

    Source: J. Bradbury, S. Merity, C. Xiong and R. Socher, "Quasi-Recurrent Neural Networks", 2016, arXiv:1611.01576.
    """
    return _checked(f, z, c0, gated=True)


def linear_scan(a: Tensor, b: Tensor, c0: Tensor | None = None) -> Tensor:
    """c_t = a_t c_(t-1) + b_t; shapes, gradients and errors as for `forget_mult`.

    Example:
        >>> half = torch.full((3, 1, 1), 0.5)
        >>> linear_scan(half, torch.ones(3, 1, 1), torch.tensor([[8.0]])).flatten().tolist()
        [5.0, 3.5, 2.75]
    """
    return _checked(a, b, c0, gated=False)


def forget_mult_naively(f: Tensor, z: Tensor, c0: Tensor | None = None) -> Tensor:
    """The same as `forget_mult`, step by step under autograd: the definition, for comparison.

    Example:
        >>> f, z = torch.rand(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
        >>> torch.allclose(forget_mult_naively(f, z), forget_mult(f, z))
        True
    """
    c = f.new_zeros(f.shape[1:]) if c0 is None else c0.reshape(f.shape[1:])
    after = []
    for f_t, z_t in zip(
        f.unbind(0), z.unbind(0), strict=True
    ):  # f[t] would cost a full-size gradient per step
        c = f_t * z_t + (1 - f_t) * c
        after.append(c)
    return torch.stack(after)


def _plainly(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """c_t = a_t c_(t-1) + b_t in operations that every program knows."""
    after = []
    for a_t, b_t in zip(a.unbind(0), b.unbind(0), strict=True):
        c = a_t * c + b_t
        after.append(c)
    return torch.stack(after)


def _checked(p: Tensor, q: Tensor, c0: Tensor | None, gated: bool) -> Tensor:
    start = p.new_zeros(p.shape[1:]) if c0 is None else c0
    if p.dim() != 3 or q.shape != p.shape or start.shape not in (p.shape[1:], (1, *p.shape[1:])):
        given = f"{tuple(p.shape)}, {tuple(q.shape)} and {tuple(start.shape)}"
        raise InputError(
            f"the shapes {given} do not fit; the recurrence takes (T, B, H) twice and a state (B, H) or (1, B, H)."
        )
    if is_exporting():  # a graph for other programs holds none of our kernels
        a, b = (1 - p, p * q) if gated else (p, q)
        return _plainly(a, b, start.reshape(p.shape[1:]))
    kind = torch.promote_types(torch.promote_types(p.dtype, q.dtype), start.dtype)
    inside = torch.float32 if kind in (torch.float16, torch.bfloat16) else kind
    c: Tensor = _forward(p.to(inside), q.to(inside), start.reshape(p.shape[1:]).to(inside), gated)
    return c.to(kind)


@torch.library.custom_op("sparsernn::forget_mult", mutates_args=())
def _forward(p: Tensor, q: Tensor, start: Tensor, gated: bool) -> Tensor:
    if forget_kernel.takes(p, q, start):
        return forget_kernel.forward(p, q, start, gated)
    if triton_language.takes(p, q, start):
        return forget_triton.forward(p, q, start, gated)
    a, b = (1 - p, p * q) if gated else (p, q)
    return _scan(a, b, start)


@torch.library.custom_op("sparsernn::forget_mult_back", mutates_args=())
def _backward(
    d: Tensor, p: Tensor, q: Tensor, start: Tensor, c: Tensor, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of c -> those of p, q and start."""
    if forget_kernel.takes(p, q, start):
        return forget_kernel.backward(d, p, q, start, c, gated)
    if triton_language.takes(p, q, start):
        return forget_triton.backward(d, p, q, start, c, gated)
    if not len(p):
        return torch.empty_like(p), torch.empty_like(q), torch.zeros_like(start)
    a = 1 - p if gated else p
    # r_t = d_t + a_(t+1) r_(t+1): the same recurrence from the end
    r = _scan(a.roll(-1, 0).flip(0), d.flip(0), torch.zeros_like(start)).flip(0)
    before = torch.cat([start.unsqueeze(0), c[:-1]])
    return (q - before if gated else before) * r, p * r if gated else r, a[0] * r[0]


@_forward.register_fake
def _(p: Tensor, q: Tensor, start: Tensor, gated: bool) -> Tensor:
    return torch.empty_like(p, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(d: Tensor, p: Tensor, q: Tensor, start: Tensor, c: Tensor, gated: bool) -> tuple[Tensor, ...]:
    shapes = (p.shape, p.shape, start.shape)
    return tuple(p.new_empty(shape) for shape in shapes)


def _keep(ctx: Context, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.gated = inputs[3]
    ctx.save_for_backward(*inputs[:3], output)


def _gradients(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:
    p, q, start, c = ctx.saved_tensors
    return (*_backward(d, p, q, start, c, ctx.gated), None)


_forward.register_autograd(_gradients, setup_context=_keep)


def _keep_more(
    ctx: Context, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool], output: object
) -> None:
    ctx.gated = inputs[5]
    ctx.save_for_backward(*inputs[:5])


def _second(ctx: Context, *incoming: Tensor) -> Gradients:
    """What a penalty on gradients asks for, by autograd through the same in plain operations."""
    with torch.enable_grad():
        d, p, q, start, c = given = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        a = 1 - p if ctx.gated else p
        later = torch.cat([a[1:], torch.zeros_like(a[:1])])
        r = _plainly(later.flip(0), d.flip(0), torch.zeros_like(start)).flip(0)
        before = torch.cat([start.unsqueeze(0), c[:-1]])
        made = (q - before if ctx.gated else before) * r, p * r if ctx.gated else r, a[0] * r[0]
    found = torch.autograd.grad(made, given, incoming, allow_unused=True)
    return (*(torch.zeros_like(t) if g is None else g for t, g in zip(given, found, strict=True)), None)


_backward.register_autograd(differentiable_once(_second), setup_context=_keep_more)


def _scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """c_t = a_t c_(t-1) + b_t in torch, by size."""
    short = len(a) <= LOOP_STEPS_UP_TO or start.numel() >= LOOP_CHANNELS_FROM
    return _looped(a, b, start) if short else _chunked(a, b, start)


def _looped(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Step by step, in place."""
    c, before = torch.empty_like(b, memory_format=torch.contiguous_format), start
    for a_t, b_t, c_t in zip(a.unbind(0), b.unbind(0), c.unbind(0), strict=True):
        before = torch.addcmul(b_t, a_t, before, out=c_t)
    return c


def _chunked(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All chunks of about sqrt(T) steps in step, from zeros; then what each hands on is added to the next."""
    steps, length = len(a), max(1, round(len(a) ** 0.5))
    missing = -steps % length
    a = functional.pad(a, (0, 0, 0, 0, 0, missing), value=1.0).view(-1, length, *start.shape).transpose(0, 1)
    b = functional.pad(b, (0, 0, 0, 0, 0, missing)).view(-1, length, *start.shape).transpose(0, 1)
    c, kept = _looped(a, b, torch.zeros_like(b[0])), a.cumprod(0)  # (length, chunks, B, H)
    after = _looped(kept[-1], c[-1], start)
    c.addcmul_(kept, torch.cat([start.unsqueeze(0), after[:-1]]))
    return c.transpose(0, 1).flatten(0, 1)[:steps].contiguous()
