"""Compiled work on tables of strips (see `sparsernn.nn.blocks.strips`, which holds the twins): lookup and scores.

For float32 on the CPU. Each output is summed in the same order whatever the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.kernels.library import Library, library, loaded

SHARED_FROM = 1 << 16
"""Numbers copied, or multiplications, from which work is shared out among threads: one takes 10 us or more."""

PANELS_FROM = 160
"""Rows of x from which the table is rearranged first, which costs as much as some forty rows."""


class CTable(ctypes.Structure):
    """`Table` of strips.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("strip", "width", "first")),
        *((name, ctypes.c_int32) for name in ("strips", "rows", "columns", "unused")),
    )


def takes(strips: Sequence[Tensor], *others: Tensor) -> bool:
    """Whether the compiled functions take these: dense float32 on the CPU, and a library is there.

    Example:
        >>> takes([torch.zeros(4, 2, dtype=torch.float64)])
        False
    """
    if library() is None or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()
        for t in chain(strips, others)
    )


class Table:
    """The strips as the functions read them; they must outlive it.

    Args:
        strips: from the left, each with the last rows only, (height, width), heights falling.

    Raises:
        InputError: a strip that is higher than the first, or no matrix.
    """

    def __init__(self, strips: Sequence[Tensor]) -> None:
        if any(strip.ndim != 2 or strip.shape[0] > strips[0].shape[0] for strip in strips):
            shapes = ", ".join(str(tuple(strip.shape)) for strip in strips)
            raise InputError(f"the strips have the shapes {shapes}; none may be higher than the first.")
        count, rows = len(strips), strips[0].shape[0]
        self.columns = sum(strip.shape[1] for strip in strips)
        self._kept = (
            (ctypes.c_void_p * count)(*(strip.data_ptr() for strip in strips)),
            (ctypes.c_int32 * count)(*(strip.shape[1] for strip in strips)),
            (ctypes.c_int32 * count)(*(rows - strip.shape[0] for strip in strips)),
        )
        addresses = (ctypes.addressof(array) for array in self._kept)
        self.rows = rows
        self.structure = CTable(*addresses, count, rows, self.columns)

    @property
    def address(self) -> int:
        """Where the C structure lies."""
        return ctypes.addressof(self.structure)


def _checked(rows: Tensor, table: Table) -> Tensor:
    """Row numbers as the functions read them: which rows there are, they do not know."""
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise InputError(f"rows are {rows.dtype} of shape {tuple(rows.shape)}; they must be int64 and (N,).")
    if rows.numel():
        least, largest = (int(end) for end in rows.aminmax())
        if least < 0 or largest >= table.rows:
            raise InputError(
                f"rows go from {least} to {largest}; the table has rows from 0 to {table.rows - 1}."
            )
    return rows.contiguous()


def _threads(found: Library, operations: int) -> int:
    return int(found.threads_between()) if operations >= SHARED_FROM else 1


def _want(shape: tuple[int, ...], tensor: Tensor) -> None:
    if tensor.shape != shape or tensor.dtype != torch.float32:
        raise InputError(
            f"a table of strips met {tensor.dtype} of shape {tuple(tensor.shape)}; it takes float32 of shape {shape}."
        )


def lookup(strips: Sequence[Tensor], rows: Tensor) -> Tensor:
    """The asked rows (N,) int64, each from 0 on and below the first strip's height -> (N, D).

    Raises:
        InputError: other rows.

    Example:
        >>> strips = [torch.ones(3, 1), torch.full((1, 2), 2.0)]
        >>> if takes(strips): assert lookup(strips, torch.tensor([2, 0])).tolist() == [[1, 2, 2], [1, 0, 0]]
    """
    found = loaded()
    table = Table(strips)
    rows = _checked(rows, table)
    out = strips[0].new_empty(len(rows), table.columns)
    threads = _threads(found, out.numel())
    found.strips_lookup(table.address, rows.data_ptr(), out.data_ptr(), len(rows), threads)
    return out


def add(sums: Sequence[Tensor], rows: Tensor, gradient: Tensor) -> None:
    """Adds the gradient (N, D) of what `lookup` gave to `sums`, which have the shapes of the strips.

    Example:
        >>> sums = [torch.zeros(3, 1), torch.zeros(1, 2)]
        >>> if takes(sums): add(sums, torch.tensor([2, 0]), torch.ones(2, 3))
        >>> sums[0].sum().item() in (2, 0)
        True
    """
    found = loaded()
    table, gradient = Table(sums), gradient.contiguous()
    rows = _checked(rows, table)
    _want((len(rows), table.columns), gradient)
    threads = _threads(found, gradient.numel())
    found.strips_add(table.address, rows.data_ptr(), gradient.data_ptr(), len(rows), threads)


def scores(strips: Sequence[Tensor], x: Tensor, bias: Tensor) -> Tensor:
    """x (N, D) times every row plus bias (rows,) -> (N, rows).

    Example:
        >>> strips = [torch.ones(3, 1), torch.full((1, 2), 2.0)]
        >>> if takes(strips): assert scores(strips, torch.ones(1, 3), torch.zeros(3)).tolist() == [[1, 1, 5]]
    """
    found = loaded()
    table, x, bias = Table(strips), x.contiguous(), bias.contiguous()
    _want((len(x), table.columns), x)
    _want((table.rows,), bias)
    n, rows = len(x), len(bias)
    out, lengths = x.new_empty(n, rows), torch.empty(-(-rows // 16), dtype=torch.int32)
    panels = x.new_empty(len(lengths) * 16 * table.columns) if n >= PANELS_FROM else None
    room = None if panels is None else panels.data_ptr()
    pointers = (x.data_ptr(), bias.data_ptr(), out.data_ptr(), room, lengths.data_ptr())
    threads = _threads(found, n * sum(strip.numel() for strip in strips))
    found.strips_scores(table.address, *pointers, n, threads)
    return out
