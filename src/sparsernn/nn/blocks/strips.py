"""Tables of word vectors in strips: lookup, scores and likelihood, compiled where possible.

Strip b holds its columns of the last rows only; strips never grow taller from left to right. The same weights by rows
are bands: runs of rows that are equally long.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels import strip_kernel
from sparsernn.nn.words.word_spans import members


def borders(strips: Sequence[Tensor]) -> Iterable[tuple[int, int]]:
    """First column of each strip in the whole table, and the one after its last.

    Example:
        >>> list(borders([torch.zeros(3, 2), torch.zeros(1, 4)]))
        [(0, 2), (2, 6)]
    """
    return pairwise(accumulate((strip.shape[1] for strip in strips), initial=0))


def bands(strips: Sequence[Tensor]) -> list[Tensor]:
    """The same weights by rows, as many bands as strips; a band is empty where two strips are equally high.

    Example:
        >>> [tuple(band.shape) for band in bands([torch.zeros(3, 2), torch.zeros(1, 4)])]
        [(2, 2), (1, 6)]
    """
    rows = strips[0].shape[0]
    starts = [rows - strip.shape[0] for strip in strips]
    heights = [stop - start for start, stop in pairwise([*starts, rows])]
    pieces = [torch.split(strip, heights[n:]) for n, strip in enumerate(strips)]
    return [torch.cat([pieces[b][n - b] for b in range(n + 1)], 1) for n in range(len(strips))]


def lookup(rows: Tensor, strips: Sequence[Tensor]) -> Tensor:
    """rows (N,) int64 -> their vectors (N, D), zero where they have ended.

    Example:
        >>> lookup(torch.tensor([2, 0]), [torch.ones(3, 1), torch.ones(1, 2)])
        tensor([[1., 1., 1.],
                [1., 0., 0.]])
    """
    # a graph for other programs holds none of our kernels; how many rows reach a strip is known neither to it nor,
    # without a wait, of a device
    if is_exporting() or rows.device.type != "cpu":
        return _looked_up(rows, strips)
    if not torch.is_grad_enabled() and strip_kernel.takes(strips):
        return strip_kernel.lookup(strips, rows)
    vectors: Tensor = _Lookup.apply(rows, *strips)  # type: ignore[no-untyped-call]
    return vectors


def _looked_up(rows: Tensor, strips: Sequence[Tensor]) -> Tensor:
    """A row of each strip, or zeros, in operations of which nobody asks for a number."""
    count, parts = len(strips[0]), []
    for strip in strips:
        if not len(strip):  # of a vocabulary with fewer words than strips: there is no row to clamp to
            parts.append(strip.new_zeros(len(rows), strip.shape[1]))
            continue
        own = (rows - (count - len(strip))).unsqueeze(1)
        vectors = functional.embedding(own.squeeze(1).clamp(min=0), strip)
        parts.append(torch.where(own >= 0, vectors, torch.zeros_like(vectors)))
    return torch.cat(parts, 1)


class _Lookup(torch.autograd.Function):
    """What exists is copied, and only that gets a gradient."""

    @staticmethod
    def forward(ctx: Context, rows: Tensor, *strips: Tensor) -> Tensor:
        ctx.save_for_backward(rows, *strips)
        if strip_kernel.takes(strips):
            return strip_kernel.lookup(strips, rows)
        vectors = strips[0].new_zeros(len(rows), sum(strip.shape[1] for strip in strips))
        for strip, part, here, own in _parts(vectors, rows, strips):
            part.index_copy_(0, here, strip.index_select(0, own))
        return vectors

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, *strips = ctx.saved_tensors
        sums = [torch.zeros_like(strip) for strip in strips]
        if strip_kernel.takes(strips):
            strip_kernel.add(sums, rows, gradient)
            return None, *sums
        for into, part, here, own in _parts(gradient, rows, sums):
            into.index_add_(0, own, part.index_select(0, here))
        return None, *sums


def _parts(
    vectors: Tensor, rows: Tensor, strips: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each strip: it, its columns of `vectors`, which of `rows` reach into it, and where in it they lie."""
    count, parts = strips[0].shape[0], []
    for strip, (start, stop) in zip(strips, borders(strips), strict=True):
        own = rows - (count - strip.shape[0])
        here = (own >= 0).nonzero().squeeze(1)
        parts.append((strip, vectors[:, start:stop], here, own[here]))
    return parts


def scores(x: Tensor, bias: Tensor, strips: Sequence[Tensor]) -> Tensor:
    """x (N, D) times every row plus bias (rows,) -> (N, rows).

    Without the compiled function many vectors meet the bands, which touch every score once; few, such as those of a
    single step, meet the strips themselves: fewer vectors than a strip is wide cost less to add up than the bands to
    put together.

    Example:
        >>> scores(torch.ones(1, 3), torch.zeros(3), [torch.ones(3, 1), torch.ones(1, 2)])
        tensor([[1., 1., 3.]])
    """
    if torch.is_grad_enabled() or is_exporting():
        return _linear(x, bias, bands(strips))
    if strip_kernel.takes(strips, x, bias):
        return strip_kernel.scores(strips, x, bias)
    if len(x) * len(strips) > x.shape[1]:
        return _by_bands(x, bias, bands(strips))
    made = bias.repeat(len(x), 1)
    for strip, (start, stop) in zip(strips, borders(strips), strict=True):
        made[:, len(bias) - strip.shape[0] :].addmm_(x[:, start:stop], strip.t())
    return made


def _linear(x: Tensor, bias: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Under autograd."""
    parts = torch.split(bias, [len(band) for band in bands])
    pairs = zip(bands, parts, strict=True)
    return torch.cat([functional.linear(x[:, : band.shape[1]], band, part) for band, part in pairs], 1)


def _by_bands(x: Tensor, bias: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Each band writes its columns of one buffer."""
    made = x.new_empty(len(x), len(bias))
    for band, part, here in _columns(made, bands):
        torch.addmm(bias[here], x[:, : band.shape[1]], band.t(), out=part)
    return made


def _columns(scores: Tensor, bands: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, slice]]:
    """Each band with its columns of `scores` and where they lie."""
    parts, start = [], 0
    for band in bands:
        here = slice(start, start + band.shape[0])
        parts.append((band, scores[:, here], here))
        start = here.stop
    return parts


def nll(x: Tensor, bias: Tensor, target: Tensor, strips: Sequence[Tensor]) -> Tensor:
    """-log softmax(scores) at the target row of each vector: (N,).

    Example:
        >>> strips = [torch.zeros(4, 2), torch.zeros(2, 1)]
        >>> nll(torch.ones(1, 3), torch.zeros(4), torch.tensor([1]), strips).exp()
        tensor([4.])
    """
    nats: Tensor = _NLL.apply(x, bias, target, *strips)  # type: ignore[no-untyped-call]
    return nats


class _NLL(torch.autograd.Function):
    """As with the dense softmax there is one (N, rows) buffer.

    With P the probabilities and g the incoming gradient per vector, the gradient of the scores is
    diag(g) (P - onehot), and it is never formed. Each band of rows works on its own columns of P, so that no column
    is touched twice.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, bias: Tensor, target: Tensor, *strips: Tensor) -> Tensor:
        made = scores(x, bias, strips)
        torch.ops.aten._log_softmax.out(made, 1, False, out=made)
        nats = -made.gather(1, target.unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(x, target, made.exp_(), *strips)
        return nats

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, target, probability, *strips = ctx.saved_tensors
        scaled = x * gradient.unsqueeze(1)
        d_x, d_bands = torch.zeros_like(x), []
        for band, part, here in _columns(probability, bands(strips)):
            width = band.shape[1]
            hit = members(target, here, band)
            own = d_x[:, :width].addmm_(part, band)
            own[hit.rows] -= hit.only(band[hit.own])
            d_band = torch.mm(part.t(), scaled[:, :width])
            d_bands.append(d_band.index_add_(0, hit.own, hit.only(scaled[hit.rows, :width]), alpha=-1))
        d_bias = torch.mv(probability.t(), gradient).index_add_(0, target, gradient, alpha=-1)
        return d_x.mul_(gradient.unsqueeze(1)), d_bias, None, *_by_strips(d_bands, strips)


def _by_strips(bands: Sequence[Tensor], strips: Sequence[Tensor]) -> list[Tensor]:
    """Bands brought back into the form of the strips."""
    return [
        torch.cat([band[:, start:stop] for band in bands[n:]])
        for n, (start, stop) in enumerate(borders(strips))
    ]
