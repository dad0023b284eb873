"""Which labels a model takes for which, small enough to be read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsernn.core.plain import Json

MOST = 20
"""Rows of a picture in which a number of two digits still has room on a page of ordinary width."""
OTHER = "other"


def confusion(counts: Tensor, labels: Sequence[str], most: int = MOST) -> dict[str, Json]:
    """A table of right and given labels, the frequent ones first.

    Labels that are neither right nor given anywhere are left out. Where more than `most` are left, those that are
    mistaken least stand together in a last row and column, "other"; its last cell has the words that are right in
    themselves and those that are mistaken for each other.

    Args:
        counts: int64, (K, K): row the right label, column the given one.
        labels: K names.
        most: rows at most, at least 2.

    Returns:
        tags: the names in order; counts: nested lists in this order; together: how many labels "other" stands for.

    Example:
        >>> found = confusion(torch.tensor([[5, 1, 0], [2, 9, 0], [0, 0, 0]]), ["NOUN", "VERB", "X"])
        >>> found["tags"], found["counts"]
        (['VERB', 'NOUN'], [[9, 2], [1, 5]])
    """
    seen = counts.sum(0) + counts.sum(1)
    mistaken = seen - 2 * counts.diagonal()
    alive = [k for k in range(len(labels)) if seen[k]]
    kept = alive
    if len(alive) > most:
        kept = sorted(alive, key=lambda k: (int(mistaken[k]), int(seen[k])), reverse=True)[: most - 1]
    kept = sorted(kept, key=lambda k: int(counts[k].sum()), reverse=True)
    rest = [k for k in alive if k not in kept]
    groups = torch.zeros(len(kept) + bool(rest), len(labels), dtype=counts.dtype)
    groups[torch.arange(len(kept)), kept] = 1
    if rest:
        groups[-1, rest] = 1
    names = [labels[k] for k in kept] + [OTHER] * bool(rest)
    return {"tags": names, "counts": (groups @ counts @ groups.t()).tolist(), "together": len(rest)}
