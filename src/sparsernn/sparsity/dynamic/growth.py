"""Which empty positions come to life.

Every rule has the signature

    rule(empty, signals, count, generator) -> grown

where the three lists are the parts of one pool: `empty` bool tensors that are True where a weight may grow,
`signals` floating tensors of the same shapes (the gradient, its running mean, or unused), and `grown` bool
tensors that are True at exactly `count` empty positions (at all of them if there are fewer). Positions
outside `empty` are never chosen, whatever their signal; ties are drawn by lot from `generator`.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsernn.sparsity.dynamic.budget import water_fill
from sparsernn.sparsity.dynamic.selection import by_magnitude, lottery

GrowFunction = Callable[[Sequence[Tensor], Sequence[Tensor], int, torch.Generator], list[Tensor]]


class GrowRule(NamedTuple):
    """A rule and the signal that it wants: "none", "gradient" or "momentum"."""

    function: GrowFunction
    signal: Literal["none", "gradient", "momentum"]


def random(
    empty: Sequence[Tensor], signals: Sequence[Tensor], count: int, generator: torch.Generator
) -> list[Tensor]:
    """Every set of `count` empty positions is equally likely.

    Differs from the original code of Selfish-RNN, which flips a coin for each position: the count is exact
    here.

    >>> empty = torch.tensor([True, False, True])
    >>> random([empty], [], 2, torch.Generator())
    [tensor([ True, False,  True])]
    """
    return lottery(empty, count, generator)


def largest_signal(
    empty: Sequence[Tensor], signals: Sequence[Tensor], count: int, generator: torch.Generator
) -> list[Tensor]:
    """The empty positions with the largest |signal|.

    Source: with the gradient, RigL: U. Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020,
    arXiv:1911.11134. With its running mean, sparse momentum: T. Dettmers and L. Zettlemoyer, "Sparse Networks
    from Scratch: Faster Training without Losing Performance", 2019, arXiv:1907.04840.

    >>> empty, signal = torch.tensor([True, True, False]), torch.tensor([0.1, -2.0, 9.0])
    >>> largest_signal([empty], [signal], 1, torch.Generator())
    [tensor([False,  True, False])]
    """
    return by_magnitude(signals, empty, count, generator, largest=True)


def by_row(
    empty: Sequence[Tensor], signals: Sequence[Tensor], count: int, generator: torch.Generator
) -> list[Tensor]:
    """Share `count` between output neurons (rows) by their mean |signal|, then take the largest within each
    row.

    A row that has too few empty positions passes the rest on to the others.

    Source: the option `momentum_neuron` of T. Dettmers's sparse_learning.

    Differs from the original: exact counts; rows that would get fewer than ten weights are not skipped.

    >>> signal = torch.tensor([[4.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    >>> by_row([torch.ones(2, 3, dtype=torch.bool)], [signal], 3, torch.Generator())
    [tensor([[ True,  True, False],
            [ True, False, False]])]
    """
    scores = [signal.abs().flatten(1) for signal in signals]
    shares = torch.cat([score.mean(1) for score in scores])
    capacities = torch.cat([part.flatten(1).sum(1) for part in empty])
    numbers = torch.tensor(water_fill(count, shares.tolist(), capacities.tolist()))
    grown, first = [], 0
    for part, score in zip(empty, scores, strict=True):
        rows = len(score)
        grown.append(_top_of_rows(part.flatten(1), score, numbers[first : first + rows]).view_as(part))
        first += rows
    return grown


def _top_of_rows(empty: Tensor, score: Tensor, numbers: Tensor) -> Tensor:
    """The first `numbers[i]` empty positions of row i in the order of falling score."""
    order = np.argsort(-score.masked_fill(~empty, -1.0).numpy(), axis=1, kind="stable")
    chosen = torch.arange(empty.shape[1]).expand_as(empty) < numbers[:, None]
    return torch.zeros_like(empty).scatter_(1, torch.from_numpy(order), chosen)


GROW: dict[str, GrowRule] = {
    "random": GrowRule(random, "none"),
    "gradient": GrowRule(largest_signal, "gradient"),
    "momentum": GrowRule(largest_signal, "momentum"),
    "momentum_neuron": GrowRule(by_row, "momentum"),
}
