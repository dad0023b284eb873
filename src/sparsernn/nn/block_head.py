"""The head that decodes with an embedding of strips."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsernn.errors import InputError
from sparsernn.nn.heads import EVAL_ROWS, Head, unused_prior
from sparsernn.units import Slice

if TYPE_CHECKING:
    from sparsernn.nn.block_embedding import BlockEmbedding


class _BandNLL(torch.autograd.Function):
    """-log softmax at the target, where runs of words read only the first features of x.

    As with the dense softmax there is one (N, V) buffer; each band of words fills its own columns of it with one
    product, so that no column is touched twice. With P the probabilities and g the incoming gradient per row, the
    gradient of the scores is diag(g) (P - onehot), and it is never formed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, target: Tensor, *bands: Tensor) -> Tensor:
        scores = band_scores(x, bias, bands)
        torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)
        nll = -scores.gather(1, target.unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(x, target, scores.exp_(), *bands)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, target, probability, *bands = ctx.saved_tensors
        scaled = x * gradient.unsqueeze(1)
        d_x, d_bands = torch.zeros_like(x), []
        for band, part, here in _columns(probability, bands):
            width = band.shape[1]
            hit = ((target >= here.start) & (target < here.stop)).nonzero().squeeze(1)
            wanted = target[hit] - here.start
            own = d_x[:, :width].addmm_(part, band)
            own.index_add_(0, hit, band[wanted], alpha=-1)
            d_band = torch.mm(part.t(), scaled[:, :width])
            d_bands.append(d_band.index_add_(0, wanted, scaled[hit, :width], alpha=-1))
        d_bias = torch.mv(probability.t(), gradient).index_add_(0, target, gradient, alpha=-1)
        return d_x.mul_(gradient.unsqueeze(1)), d_bias, None, *d_bands


def band_scores(x: Tensor, bias: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """x (N, D) times the rows of all bands, one after the other, plus bias (V,): (N, V).

    Without gradients each band writes its columns of one buffer.
    """
    if torch.is_grad_enabled():
        parts = torch.split(bias, [len(band) for band in bands])
        pairs = zip(bands, parts, strict=True)
        return torch.cat([functional.linear(x[:, : band.shape[1]], band, part) for band, part in pairs], 1)
    scores = x.new_empty(len(x), len(bias))
    for band, part, here in _columns(scores, bands):
        torch.addmm(bias[here], x[:, : band.shape[1]], band.t(), out=part)
    return scores


def _columns(scores: Tensor, bands: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, slice]]:
    """Each band with its columns of `scores` and where they lie."""
    parts, start = [], 0
    for band in bands:
        here = slice(start, start + band.shape[0])
        parts.append((band, scores[:, here], here))
        start = here.stop
    return parts


class BlockHead(Head):
    """softmax(E y + b) with the strips of a `BlockEmbedding` for E: a rare word reads only the first features of y.

    Args:
        input_size: H, which must be the embedding's width D.
        tied: the embedding.
        idle_prior: H more parameters without use, as in `LinearHead`; for published totals only.

    Parameters: `table`, the embedding itself; `bias` (V,), 0.

    Example:
        >>> from sparsernn.nn.block_embedding import BlockEmbedding
        >>> head = BlockHead(4, BlockEmbedding(10, 4, blocks=2, density=0.75))
        >>> head.nll(torch.randn(3, 2, 4), torch.randint(10, (3, 2))).shape
        torch.Size([6])

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    """

    def __init__(self, input_size: int, tied: "BlockEmbedding", *, idle_prior: bool = False) -> None:
        super().__init__()
        if tied.embedding_size != input_size:
            raise InputError(
                f"tied weights need a last hidden size equal to embedding_size, but they are {input_size} and "
                f"{tied.embedding_size}; set both alike or tied: false."
            )
        self.table = tied
        self.bias = nn.Parameter(torch.zeros(tied.vocabulary_size))
        self.prior = unused_prior(input_size, idle_prior)

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""
        x, wanted = y.reshape(-1, y.shape[-1]), self.table.row[target.reshape(-1)]
        bias = self.bias[self.table.word]
        if torch.is_grad_enabled():
            nll: Tensor = _BandNLL.apply(x, bias, wanted, *self.table.bands())  # type: ignore[no-untyped-call]
            return nll
        pairs = zip(torch.split(x, EVAL_ROWS), torch.split(wanted, EVAL_ROWS), strict=True)
        scores = ((self.table.scores(rows, bias), t) for rows, t in pairs)
        return torch.cat([functional.cross_entropy(row, t, reduction="none") for row, t in scores])

    def logits(self, y: Tensor) -> Tensor:
        """Scores before the softmax, (..., V)."""
        return self.table.decode(y, self.bias)

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        return self.logits(y).log_softmax(-1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of one strip."""
        idle = () if self.prior is None else (Slice(self, "prior", 0, in_norm=False),)
        return (*self.table.outputs(), *idle)
