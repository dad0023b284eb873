"""Which words lie in a span of the vocabulary, without a wait for a device."""

from typing import NamedTuple

from torch import Tensor


class Members(NamedTuple):
    """Words of a span among others.

    Attributes:
        rows: which of the words, by number; all of them on a device, where to number some would be to wait for it.
        own: their numbers within the span; any number in it where a word lies elsewhere.
        here: 1 where a word of `rows` lies in the span and 0 elsewhere, (rows, 1); None where all of them do.
    """

    rows: Tensor | slice
    own: Tensor
    here: Tensor | None

    def only(self, vectors: Tensor) -> Tensor:
        """Vectors (rows, ...), 0 where the word lies elsewhere.

        Example:
            >>> import torch
            >>> first = Members(slice(None), torch.tensor([0, 0]), torch.tensor([[1.0], [0.0]]))
            >>> first.only(torch.ones(2, 1)).tolist()
            [[1.0], [0.0]]
        """
        if self.here is None:
            return vectors
        return vectors * self.here.view(-1, *[1] * (vectors.dim() - 1))


def members(words: Tensor, span: range | slice, kind: Tensor) -> Members:
    """The words (N,) of a span [start, stop).

    Args:
        words: int64.
        span: of the vocabulary.
        kind: of whose type `here` is.

    Example:
        >>> import torch
        >>> found = members(torch.tensor([7, 2, 8]), range(5, 9), torch.zeros(1))
        >>> found.rows.tolist(), found.own.tolist()
        ([0, 2], [2, 3])
    """
    if span.stop <= span.start:
        return Members(words[:0], words[:0], None)
    inside = (words >= span.start) & (words < span.stop)
    if words.device.type == "cpu":
        rows = inside.nonzero().squeeze(1)
        return Members(rows, words[rows] - span.start, None)
    own = (words - span.start).clamp(0, span.stop - span.start - 1)
    return Members(slice(None), own, inside.to(kind.dtype).unsqueeze(1))
