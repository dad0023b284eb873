"""Where the existing weights of a table lie, row after row, for whoever reads a few rows of it at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Some rows of a table.

    Attributes:
        places: of their values among those of the table, int64.
        row: which of these rows each belongs to.
        column: and at which place in it.
        shape: of these rows as a matrix.
    """

    places: Tensor
    row: Tensor
    column: Tensor
    shape: tuple[int, int]

    def matrix(self, values: Tensor) -> Tensor:
        """The rows, dense, out of the values of the whole table."""
        dense = values.new_zeros(self.shape)
        dense[self.row, self.column] = values[self.places]
        return dense

    def back(self, matrix: Tensor, size: int) -> Tensor:
        """The values of a table of `size` whose rows are these, 0 in all others."""
        values = matrix.new_zeros(size)
        values[self.places] = matrix[self.row, self.column]
        return values


class RowLayout:
    """The places of the weights of a table (rows, columns).

    Args:
        mask: bool, True where a weight exists; fewer than 2^31 entries.

    Attributes:
        shape: rows and columns.
        size: how many weights exist, and numbers `values` has.

    Example:
        >>> layout = RowLayout(torch.tensor([[True, False], [False, True]]))
        >>> layout.take(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [1.0, 4.0]
        >>> layout.rows(torch.tensor([1])).matrix(torch.tensor([1.0, 4.0])).tolist()
        [[0.0, 4.0]]
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = (mask.shape[0], mask.shape[1])
        self.places = mask.flatten().nonzero().squeeze(1).int()
        self.size = len(self.places)
        self.start = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])

    def take(self, dense: Tensor) -> Tensor:
        """The values (size,) of a dense table of this shape; without gradients."""
        return dense.detach().flatten().index_select(0, self.places)

    def put(self, values: Tensor) -> Tensor:
        """The dense table with these values (size,), 0 elsewhere; without gradients."""
        dense = values.new_zeros(self.shape[0] * self.shape[1])
        dense[self.places.long()] = values.detach()
        return dense.view(self.shape)

    def rows(self, which: Tensor) -> Rows:
        """Some rows, int64 (N,), each from 0 to the last."""
        first = self.start.index_select(0, which)  # an index in brackets takes -1 for the end
        counts = self.start.index_select(0, which + 1) - first
        row = torch.repeat_interleave(torch.arange(len(which)), counts)
        before = counts.cumsum(0) - counts
        places = torch.arange(len(row)) + (first - before)[row]
        return Rows(places, row, self.places[places].long() % self.shape[1], (len(which), self.shape[1]))
