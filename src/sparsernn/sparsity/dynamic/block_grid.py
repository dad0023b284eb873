"""Where the blocks of a matrix lie: strips of rows, cut into blocks of neighbouring columns.

Strips are as high as a block and begin anew at every gate, so that none has rows of two; the last one of a gate, and
of the matrix, is as high as what is left. The last block of a strip is as wide as what is left. Blocks of one size
form a class: what moves between blocks of one class leaves the number of weights as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Rectangle(NamedTuple):
    """Cells of a grid: strips `start` (included) to `stop` (excluded), blocks `left` to `right` of each.

    Attributes:
        area: weights in each of its cells.
    """

    start: int
    stop: int
    left: int
    right: int
    area: int


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of a matrix (R, C).

    Attributes:
        rows: first row of every strip, and R.
        columns: first column of every block in a strip, and C.

    Example:
        >>> grid = BlockGrid.of((10, 2), (4, 1))
        >>> grid.rows, grid.shape, grid.expand(torch.tensor([[True, False], [False, False], [False, True]])).sum(0)
        ((0, 4, 8, 10), (3, 2), tensor([4, 2]))
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(
        cls, shape: tuple[int, int], block: tuple[int, int], gates: Iterable[tuple[int, int]] = ()
    ) -> BlockGrid:
        """The grid of a matrix of `shape` in blocks of `block`; gates are first rows and the rows after the last."""
        borders = sorted({0, shape[0], *(border for gate in gates for border in gate)})
        rows = [row for first, end in pairwise(borders) for row in range(first, end, block[0])]
        return cls((*rows, shape[0]), (*range(0, shape[1], block[1]), shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Strips, and blocks in each."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def is_single(self) -> bool:
        """Whether every cell is one weight."""
        return self.shape == (self.rows[-1], self.columns[-1])

    @property
    def widest(self) -> int:
        """Columns of the widest block."""
        return max(_sizes(self.columns), default=1)

    def classes(self) -> list[list[Rectangle]]:
        """All cells, sorted into rectangles of cells of one area; a list for each area, in the order of rows.

        Example:
            >>> [[tuple(r) for r in same] for same in BlockGrid.of((10, 2), (4, 1)).classes()]
            [[(0, 2, 0, 2, 4)], [(2, 3, 0, 2, 2)]]
        """
        found: dict[int, list[Rectangle]] = {}
        for start, stop, height in _runs(self.rows):
            for left, right, width in _runs(self.columns):
                area = height * width
                found.setdefault(area, []).append(Rectangle(start, stop, left, right, area))
        return list(found.values())

    @property
    def areas(self) -> Tensor:
        """Weights in every cell, int64 (strips, blocks)."""
        return torch.tensor(_sizes(self.rows)).unsqueeze(1) * torch.tensor(_sizes(self.columns))

    def cells(self) -> dict[int, int]:
        """Area -> how many cells have it, in the order of `classes`."""
        return {
            same[0].area: sum((r.stop - r.start) * (r.right - r.left) for r in same)
            for same in self.classes()
        }

    def sums(self, matrix: Tensor) -> Tensor:
        """Of a matrix (R, C), over every block."""
        if self.is_single:
            return matrix
        heights, widths = _sizes(self.rows), _sizes(self.columns)
        if len(set(heights)) == len(set(widths)) == 1:
            return matrix.view(len(heights), heights[0], len(widths), widths[0]).sum((1, 3))
        return _sums(_sums(matrix, heights).t(), widths).t()

    def means(self, matrix: Tensor) -> Tensor:
        """Of a matrix (R, C), over every block.

        >>> BlockGrid.of((3, 1), (2, 1)).means(torch.tensor([[1.0], [3.0], [5.0]])).tolist()
        [[2.0], [5.0]]
        """
        return matrix if self.is_single else self.sums(matrix) / self.areas.to(matrix.device)

    def sample(self, matrix: Tensor) -> Tensor:
        """The first entry of every block of a matrix (R, C)."""
        return matrix if self.is_single else matrix[list(self.rows[:-1])][:, list(self.columns[:-1])]

    def expand(self, grid: Tensor) -> Tensor:
        """A matrix (R, C) that has in every block what the grid has for it."""
        if self.is_single:
            return grid
        heights, widths = (torch.tensor(_sizes(borders)) for borders in (self.rows, self.columns))
        return grid.repeat_interleave(heights.to(grid.device), 0).repeat_interleave(widths.to(grid.device), 1)


def _sizes(borders: Sequence[int]) -> list[int]:
    return [end - first for first, end in pairwise(borders)]


def _runs(borders: Sequence[int]) -> list[tuple[int, int, int]]:
    """First, end and size of each run of neighbouring strips that are equally high."""
    runs: list[tuple[int, int, int]] = []
    for number, size in enumerate(_sizes(borders)):
        if runs and runs[-1][2] == size:
            runs[-1] = (runs[-1][0], number + 1, size)
        else:
            runs.append((number, number + 1, size))
    return runs


def _sums(matrix: Tensor, heights: Sequence[int]) -> Tensor:
    strip = torch.repeat_interleave(torch.arange(len(heights)), torch.tensor(heights)).to(matrix.device)
    return matrix.new_zeros(len(heights), matrix.shape[1]).index_add_(0, strip, matrix)
