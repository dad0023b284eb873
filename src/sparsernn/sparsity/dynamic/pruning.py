"""Which weights go.

Every rule has the signature

    rule(weights, masks, count, generator) -> removed

where the three lists are the parts of one pool: `weights` floating tensors, `masks` bool tensors that are
True where a weight is active, and `removed` bool tensors that are True at exactly `count` active positions
(at all active ones if there are fewer). Weights that tie at the border are drawn by lot from `generator`;
active weights that are exactly 0 go first under every rule.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsernn.sparsity.dynamic.selection import by_magnitude, count_true

PruneRule = Callable[[Sequence[Tensor], Sequence[Tensor], int, torch.Generator], list[Tensor]]


def magnitude(
    weights: Sequence[Tensor], masks: Sequence[Tensor], count: int, generator: torch.Generator
) -> list[Tensor]:
    """The smallest magnitudes of the pool.

    Source: S. Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015,
    arXiv:1506.02626.

    >>> weights, active = torch.tensor([0.5, -0.1, 0.0, 0.3]), torch.tensor([True, True, False, True])
    >>> magnitude([weights], [active], 2, torch.Generator())
    [tensor([False,  True, False,  True])]
    """
    return by_magnitude(weights, masks, count, generator, largest=False)


def sign_split(
    weights: Sequence[Tensor], masks: Sequence[Tensor], count: int, generator: torch.Generator
) -> list[Tensor]:
    """Half from the positive, half from the negative weights, each time those nearest to zero.

    Zeros belong to no sign and go first. Of the rest, the positive side gives the larger half of an odd
    number; a side that has too few gives all it has and the other side the remainder.

    Source: the rule of SET: D. C. Mocanu et al., 2018, arXiv:1707.04780.

    Differs from the original code of Selfish-RNN, which removes the *most* negative weights.

    >>> weights = torch.tensor([0.1, 0.2, 0.9, -0.3, -0.8])
    >>> sign_split([weights], [torch.ones(5, dtype=torch.bool)], 3, torch.Generator())
    [tensor([ True,  True, False,  True, False])]
    """
    zero, positive, negative = (_signed(weights, masks, test) for test in (torch.eq, torch.gt, torch.lt))
    from_zero = min(count, count_true(zero))
    rest, plus, minus = count - from_zero, count_true(positive), count_true(negative)
    from_positive = min(plus, max(-(-rest // 2), rest - minus))
    chosen = [
        by_magnitude(weights, eligible, number, generator, largest=False)
        for eligible, number in (
            (zero, from_zero),
            (positive, from_positive),
            (negative, rest - from_positive),
        )
    ]
    return [z | p | n for z, p, n in zip(*chosen, strict=True)]


def _signed(
    weights: Sequence[Tensor], masks: Sequence[Tensor], test: Callable[[Tensor, float], Tensor]
) -> list[Tensor]:
    return [test(w, 0.0).logical_and_(m) for w, m in zip(weights, masks, strict=True)]


# `threshold` and `global_magnitude` remove the smallest magnitudes too. They differ in *how many*: the number
# below an adaptive threshold (budget.update_tau), and in *the pool*: all tensors together
# (pools.prune_pools).
PRUNE: dict[str, PruneRule] = {
    "magnitude": magnitude,
    "set": sign_split,
    "threshold": magnitude,
    "global_magnitude": magnitude,
}
