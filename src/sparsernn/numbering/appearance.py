"""The tokens of a whole text in the order in which they appear, each with its count in every part of the text."""

from collections import defaultdict
from itertools import count

import numpy as np

from sparsernn.numbering.piece_numbers import Counts, Ids, Numbered


class Appearance:
    """Numbers the tokens of several texts, piece by piece: 0 for the first one that is met, and so on.

    Attributes:
        index: token -> number, in the order of the numbers.

    Args:
        parts: names of the texts.

    Example:
        >>> from sparsernn.numbering.piece_numbers import by_token
        >>> met = Appearance(["train", "test"])
        >>> met.take("train", by_token(["b", "a", "b"])).tolist(), met.take("test", by_token(["c", "a"])).tolist()
        ([0, 1, 0], [2, 1])
        >>> met.counts("test").tolist()
        [0, 1, 1]
    """

    def __init__(self, parts: list[str]) -> None:
        self.index: defaultdict[str, int] = defaultdict(count().__next__)
        self._counts = {part: np.zeros(1024, np.int64) for part in parts}

    def __len__(self) -> int:
        return len(self.index)

    def take(self, part: str, piece: Numbered) -> Ids:
        """The next piece of a text in the numbers of all texts."""
        table = np.fromiter(map(self.index.__getitem__, piece.tokens), np.uint32, len(piece.tokens))
        if len(self) > len(self._counts[part]):
            self._counts[part] = np.append(self._counts[part], np.zeros(2 * len(self), np.int64))
        self._counts[part][table] += piece.counts  # every number is there once
        return table[piece.ids]

    def counts(self, part: str) -> Counts:
        """How often each token occurs in a text, (len(self),)."""
        counts = self._counts[part]
        return np.append(counts, np.zeros(max(0, len(self) - len(counts)), np.int64))[: len(self)]
