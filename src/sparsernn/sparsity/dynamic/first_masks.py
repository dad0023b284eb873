"""The first masks: how many weights each tensor gets, and which."""

import torch

from sparsernn.sparsity.dynamic.budget import erdos_renyi_counts, uniform_counts
from sparsernn.sparsity.dynamic.engine_settings import Rules
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor, check_one_area
from sparsernn.sparsity.dynamic.selection import lottery


def initial_masks(tensors: list[MaskedTensor], rules: Rules, generator: torch.Generator) -> None:
    """Fill the masks (and `ever`) of all tensors.

    With `rules.exact` a tensor of n units (weights, or blocks) gets density * n of them under "uniform", to less
    than one unit, and the sum over all tensors is exact; under "erdos_renyi" the sum over all tensors without a
    density of their own is. Otherwise every position is present with that probability, on its own.

    Tensors are drawn in order from the generator, so the same seed gives the same masks on every device.
    """
    exact = rules.exact and rules.init != "uniform_bernoulli"
    for tensor, count in zip(tensors, initial_counts(tensors, rules), strict=True):
        everywhere = torch.ones(tensor.grid_shape, dtype=torch.bool)
        if exact:
            grid = lottery([everywhere], count, generator)[0]
        else:
            grid = torch.rand(tensor.grid_shape, generator=generator) < count / everywhere.numel()
        tensor.mask.copy_(tensor.expand(grid))
        tensor.ever.copy_(tensor.mask)


def initial_counts(tensors: list[MaskedTensor], rules: Rules) -> list[int]:
    """Units (weights, or whole blocks) for each tensor."""
    units = [tensor.grid_shape for tensor in tensors]
    counts = uniform_counts([t.density for t in tensors], units)
    if rules.init != "erdos_renyi":
        return none_empty(counts)
    pooled = [i for i, t in enumerate(tensors) if not t.own]
    sharing = [tensors[i] for i in pooled]
    check_one_area(sharing, "init=erdos_renyi")
    area = sharing[0].area if sharing else 1
    drawn = erdos_renyi_counts([t.density for t in sharing], [t.shape for t in sharing], area)
    for i, count in zip(pooled, drawn, strict=True):
        counts[i] = count
    return none_empty(counts)


def none_empty(counts: list[int]) -> list[int]:
    """A unit for each tensor that would have none, and so put out a constant; taken from the largest.

    >>> none_empty([0, 5]), none_empty([0])
    ([1, 4], [1])
    """
    for i in [i for i, count in enumerate(counts) if not count]:
        counts[i] = 1
        largest = max(range(len(counts)), key=counts.__getitem__)
        counts[largest] -= counts[largest] > 1
    return counts


def fan_in_scale(tensor: MaskedTensor) -> float:
    """1 / sqrt(density): keeps the variance of a layer's output at that of the dense layer.

    Source: U. Evci et al., "Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win", 2020,
    arXiv:2010.03533.
    """
    active = int(tensor.mask.count_nonzero())
    return float((tensor.mask.numel() / active) ** 0.5) if active else 1.0
