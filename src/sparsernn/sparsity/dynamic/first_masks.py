"""The first masks: how many weights each tensor gets, and which."""

import torch

from sparsernn.sparsity.dynamic.budget import erdos_renyi_counts, uniform_counts, water_fill
from sparsernn.sparsity.dynamic.engine_settings import Rules
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor, check_one_area
from sparsernn.sparsity.dynamic.selection import lottery


def initial_masks(tensors: list[MaskedTensor], rules: Rules, generator: torch.Generator) -> None:
    """Fill the masks (and `ever`) of all tensors.

    With `rules.exact` a tensor of n units (weights, or blocks) gets density * n of them under "uniform", to less
    than one unit, and the sum over all tensors is exact; under "erdos_renyi" the sum over all tensors without a
    density of their own is. Lower and narrower blocks at borders count as units of their own size, each size to less
    than one of them. Otherwise every position is present with that probability, on its own.

    Tensors are drawn in order from the generator, so the same seed gives the same masks on every device.
    """
    exact = rules.exact and rules.init != "uniform_bernoulli"
    for tensor, counts in zip(tensors, initial_counts(tensors, rules), strict=True):
        grid = torch.zeros(tensor.grid_shape, dtype=torch.bool)
        if exact:
            areas = tensor.grid.areas
            for area, count in counts.items():
                grid |= lottery([areas == area], count, generator)[0]
        else:
            grid = torch.rand(tensor.grid_shape, generator=generator) < sum(counts.values()) / grid.numel()
        tensor.mask.copy_(tensor.expand(grid))
        tensor.ever.copy_(tensor.mask)


def initial_counts(tensors: list[MaskedTensor], rules: Rules) -> list[dict[int, int]]:
    """Units (weights, or whole blocks) for each tensor: area of a unit -> how many of that area."""
    counts = even_counts(tensors)
    if rules.init != "erdos_renyi":
        return counts
    sharing = [t for t in tensors if not t.own]
    check_one_area(sharing, "init=erdos_renyi")
    cells = [t.grid.cells() for t in sharing]
    totals = [sum(own.values()) for own in cells]
    drawn = erdos_renyi_counts([t.density for t in sharing], [t.shape for t in sharing], totals)
    sizes = (list(own.values()) for own in cells)
    split = iter([water_fill(count, own, own) for count, own in zip(drawn, sizes, strict=True)])
    for tensor, own in zip(tensors, counts, strict=True):
        if not tensor.own:
            own.update(zip(own, next(split), strict=True))
    return _none_empty(counts)


def even_counts(tensors: list[MaskedTensor]) -> list[dict[int, int]]:
    """The same, every tensor at its own density."""
    cells = [tensor.grid.cells() for tensor in tensors]
    densities = [tensor.density for tensor, own in zip(tensors, cells, strict=True) for _ in own]
    numbers = iter(uniform_counts(densities, [(number,) for own in cells for number in own.values()]))
    return _none_empty([{area: next(numbers) for area in own} for own in cells])


def _none_empty(counts: list[dict[int, int]]) -> list[dict[int, int]]:
    numbers = iter(none_empty([count for own in counts for count in own.values()]))
    return [{area: next(numbers) for area in own} for own in counts]


def none_empty(counts: list[int]) -> list[int]:
    """A unit for each tensor (and size of units) that would have none, and so put out constants; from the largest.

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
