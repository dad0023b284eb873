"""Words to vectors, with whole word types dropped in training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.nn.dropout import drop_rows
from sparsernn.structure.units import Slice


class Embedding(nn.Module):
    """A table of word vectors.

    Args:
        vocabulary_size: V.
        embedding_size: E.
        dropout: probability in [0, 1) that a word type is dropped for the whole window; kept rows are scaled by
            1 / (1 - dropout).

    Parameters: `weight` (V, E), initialised U(-0.1, 0.1).

    Example:
        >>> Embedding(10, 4)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])

    Source of the dropout: Y. Gal and Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", 2016, arXiv:1512.05287.
    """

    trusts_order = False
    """Whether the order of words is taken for that of their frequencies."""

    @checked
    def __init__(self, vocabulary_size: Size, embedding_size: Size, dropout: DropRate = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(vocabulary_size, embedding_size).uniform_(-0.1, 0.1))

    def forward(self, words: Tensor) -> Tensor:
        """words (T, B) int64 -> vectors (T, B, E)."""
        return functional.embedding(words, drop_rows(self.weight, self.dropout, self.training))

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.weight.shape[0]

    @property
    def decoder(self) -> nn.Parameter:
        """What a tied head decodes with."""
        return self.weight

    def outputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the table."""
        return (Slice(self, "weight", 1),)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """The table's spec with the settings that another width has changed: none."""
        return dict(spec)
