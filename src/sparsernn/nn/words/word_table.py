"""Word vectors of which some are trained and some are given."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class WordTable(nn.Module):
    """Vectors of V trained words, followed by those of F words that are given and stay as they are.

    Args:
        trained: V.
        size: E, numbers per word.
        fixed: F; their vectors are 0 until `fixed` is filled.

    Parameters: `weight` (V, E), drawn from N(0, 1). Buffer: `fixed` (F, E).

    Example:
        >>> table = WordTable(2, 3, fixed=1)
        >>> table(torch.tensor([2])).tolist()
        [[0.0, 0.0, 0.0]]
    """

    fixed: Tensor

    def __init__(self, trained: int, size: int, fixed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(trained, size))
        self.register_buffer("fixed", torch.zeros(fixed, size))

    def forward(self, words: Tensor) -> Tensor:
        """words (...) int64, 0 to V + F - 1 -> vectors (..., E)."""
        trained = len(self.weight)
        if not len(self.fixed):
            return functional.embedding(words, self.weight)
        learnt = functional.embedding(words.clamp(max=trained - 1), self.weight)
        given = functional.embedding((words - trained).clamp(min=0), self.fixed)
        return torch.where((words < trained).unsqueeze(-1), learnt, given)
