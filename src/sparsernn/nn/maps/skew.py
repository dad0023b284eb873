"""Skew matrices kept as the vector of what lies above their diagonal: no entry is stored twice, none is dead."""

import torch
from torch import Tensor


def upper_places(size: int) -> Tensor:
    """Where the entries above the diagonal lie in a flattened (size, size) matrix, row by row.

    Example:
        >>> upper_places(3)
        tensor([1, 2, 5])
    """
    places = torch.triu_indices(size, size, 1)
    return places[0] * size + places[1]


def scatter(values: Tensor, places: Tensor, size: int) -> Tensor:
    """A (size, size) matrix with `values` at the flat `places` and zeros elsewhere.

    Example:
        >>> scatter(torch.tensor([5.0]), torch.tensor([2]), 2)
        tensor([[0., 0.],
                [5., 0.]])
    """
    return values.new_zeros(size * size).index_copy(0, places, values).view(size, size)


def skew_matrix(values: Tensor, places: Tensor, size: int) -> Tensor:
    """A with A[i, j] = value and A[j, i] = -value for the `upper_places`.

    Example:
        >>> skew_matrix(torch.tensor([1.0, 2.0, 3.0]), upper_places(3), 3)
        tensor([[ 0.,  1.,  2.],
                [-1.,  0.,  3.],
                [-2., -3.,  0.]])
    """
    upper = scatter(values, places, size)
    return upper - upper.mT


def planar_vector(angles: Tensor, size: int) -> Tensor:
    """The vector of a skew matrix that turns the planes (0, 1), (2, 3) ... by `angles` and nothing else.

    Example:
        >>> planar_vector(torch.tensor([0.5]), 3)
        tensor([0.5000, 0.0000, 0.0000])
    """
    values = torch.zeros(size * (size - 1) // 2, dtype=angles.dtype)
    row = torch.arange(len(angles)) * 2
    values[row * (2 * size - row - 1) // 2] = angles
    return values
