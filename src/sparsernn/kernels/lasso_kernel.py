"""Passes over the weights for penalties on norms and magnitudes: one read of memory each where they are compiled.

For float32 on the CPU; what is not that, or not dense, is done by torch in two or three passes, without temporaries
of the weights' size but for signs. Both give the same numbers, up to the order in which they are added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsernn.kernels.library import Library, library

SHARED_FROM = 1 << 16
"""Weights from which a pass is shared out among threads: one thread takes some 20 us for that many."""


def _library(*tensors: Tensor) -> Library | None:
    suits = all(t.dtype == torch.float32 and t.is_cpu and t.is_contiguous() for t in tensors)
    return library() if suits else None


def _threads(found: Library, numbers: int) -> int:
    return found.threads_between() if numbers >= SHARED_FROM else 1


def squares(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of squares of the rows, (R,), and of the columns, (C,), of a matrix (R, C), in float32 at least.

    Example:
        >>> rows, columns = squares(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> rows.tolist(), columns.tolist()
        ([25.0, 1.0], [9.0, 17.0])
    """
    matrix = matrix.detach()
    found = _library(matrix)
    if found is None:
        wide = torch.promote_types(matrix.dtype, torch.float32)
        rows, columns = (torch.linalg.vector_norm(matrix, dim=d, dtype=wide).square() for d in (1, 0))
        return rows, columns
    threads = _threads(found, matrix.numel())
    by_row, by_column = matrix.new_empty(len(matrix)), matrix.new_zeros(threads, matrix.shape[1])
    pointers = (t.data_ptr() for t in (matrix, by_row, by_column))
    found.squares(*pointers, *matrix.shape, threads)
    return by_row, by_column.sum(0)


@torch.no_grad()
def add_scaled(gradient: Tensor, matrix: Tensor, by_row: Tensor, by_column: Tensor) -> None:
    """gradient[r, c] += (by_row[r] + by_column[c]) * matrix[r, c], in place.

    Example:
        >>> gradient = torch.zeros(1, 2)
        >>> add_scaled(gradient, torch.tensor([[2.0, 3.0]]), torch.tensor([1.0]), torch.tensor([0.0, 10.0]))
        >>> gradient.tolist()
        [[2.0, 33.0]]
    """
    found = _library(gradient, matrix, by_row, by_column)
    if found is None:
        gradient.addcmul_(matrix, by_row.to(matrix.dtype).unsqueeze(1))
        gradient.addcmul_(matrix, by_column.to(matrix.dtype).unsqueeze(0))
        return
    pointers = (t.data_ptr() for t in (matrix, gradient, by_row, by_column))
    found.add_scaled(*pointers, *matrix.shape, _threads(found, matrix.numel()))
    torch.autograd.graph.increment_version(gradient)


@torch.no_grad()
def add_signs(gradient: Tensor, weight: Tensor, strength: float) -> None:
    """gradient += strength * sign(weight), in place; both of one shape.

    Example:
        >>> gradient = torch.zeros(3)
        >>> add_signs(gradient, torch.tensor([2.0, 0.0, -1.0]), 0.5)
        >>> gradient.tolist()
        [0.5, 0.0, -0.5]
    """
    found = _library(gradient, weight)
    if found is None:
        gradient.add_(weight.sign(), alpha=strength)
        return
    count = weight.numel()
    found.add_signs(weight.data_ptr(), gradient.data_ptr(), strength, count, _threads(found, count))
    torch.autograd.graph.increment_version(gradient)


@torch.no_grad()
def threshold(weight: Tensor, least: float) -> None:
    """Write 0 where the magnitude is below `least`, in place.

    Example:
        >>> weight = torch.tensor([0.5, -0.25, 0.24, -1.0])
        >>> threshold(weight, 0.25)
        >>> weight.tolist()
        [0.5, -0.25, 0.0, -1.0]
    """
    found = _library(weight)
    if found is None:
        # hardshrink writes 0 up to its bound inclusive: the largest number below `least`
        bound = torch.nextafter(
            torch.tensor(least, dtype=weight.dtype), torch.tensor(0.0, dtype=weight.dtype)
        )
        torch.ops.aten.hardshrink.out(weight, bound.item(), out=weight)
        return
    found.threshold(weight.data_ptr(), least, weight.numel(), _threads(found, weight.numel()))
    torch.autograd.graph.increment_version(weight)
