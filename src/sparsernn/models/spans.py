"""The likeliest span of words, from the scores of its first and its last word."""

from typing import NamedTuple

from torch import Tensor


class Spans(NamedTuple):
    """One span for each row of a batch."""

    first: Tensor
    """Number of the first word, (B,) int64."""
    last: Tensor
    """Number of the last word, (B,) int64, at least `first`."""
    probability: Tensor
    """p(first) * p(last), (B,)."""


def best_spans(start: Tensor, end: Tensor) -> Spans:
    """The words i <= j with the largest softmax(start)_i * softmax(end)_j, of any length, in one pass.

    Args:
        start: scores before the softmax, (B, T).
        end: likewise.

    Example:
        >>> import torch
        >>> spans = best_spans(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[3.0, 0.0, 1.0]]))
        >>> spans.first.tolist(), spans.last.tolist()
        ([0], [0])
    """
    log_start, log_end = start.log_softmax(1), end.log_softmax(1)
    best_so_far, where = log_start.cummax(1)
    together = best_so_far + log_end
    score, last = together.max(1)
    return Spans(where.gather(1, last.unsqueeze(1)).squeeze(1), last, score.exp())
