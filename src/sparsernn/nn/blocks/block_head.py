"""The head that decodes with an embedding of strips."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.precision import exactly, widened
from sparsernn.nn.blocks import strips
from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.words.heads import Head, unused_prior
from sparsernn.nn.words.softmax import EVAL_ROWS, one_for_each
from sparsernn.structure.units import Slice


class BlockHead(Head):
    """softmax(E y + b) with the strips of a `BlockEmbedding` for E: a rare word reads only the first features of y.

    Args:
        input_size: H, which must be the embedding's width D.
        tied: the embedding.
        idle_prior: H more parameters without use, as in `LinearHead`; for published totals only.

    Parameters: `table`, the embedding itself; `bias` (V,), 0.

    Example:
        >>> from sparsernn.nn.blocks.block_embedding import BlockEmbedding
        >>> head = BlockHead(4, BlockEmbedding(10, 4, blocks=2, density=0.75))
        >>> head.nll(torch.randn(3, 2, 4), torch.randint(10, (3, 2))).shape
        torch.Size([6])

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    """

    def __init__(self, input_size: int, tied: BlockEmbedding, *, idle_prior: bool = False) -> None:
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
        x = y.reshape(-1, y.shape[-1])
        wanted = self.table.rows_of(one_for_each(target.reshape(-1), len(x)))
        bias = self.bias[self.table.word]
        if torch.is_grad_enabled():
            return exactly(strips.nll, x, bias, wanted, self.table.strips)
        pairs = zip(torch.split(x, EVAL_ROWS), torch.split(wanted, EVAL_ROWS), strict=True)
        scores = ((self.table.scores(rows, bias), t) for rows, t in pairs)
        return torch.cat([functional.cross_entropy(row, t, reduction="none") for row, t in scores])

    def logits(self, y: Tensor) -> Tensor:
        """Scores before the softmax, (..., V)."""
        return self.table.decode(y, self.bias)

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        scores: Tensor = widened(self.logits(y))
        return scores.log_softmax(-1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of one strip."""
        idle = () if self.prior is None else (Slice(self, "prior", 0, in_norm=False),)
        return (*self.table.outputs(), *idle)
