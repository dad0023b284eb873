"""Products of a matrix whose weights lie in blocks of up to 16 rows x 1 column, on a CUDA device, by Triton.

What the outputs of a panel need are the same columns of x, so that they are gathered and multiplied as a dense matrix
is, by the device's units for that. Sums are taken in the same order every time. float32; TF32 where torch is told to
round so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsernn.core.devices import moved
from sparsernn.kernels import triton_language
from sparsernn.kernels.sparse_layout import MOST, TALL, Layout
from sparsernn.kernels.triton_language import Kernel

tl: Any = None  # triton.language, which `Kernel` puts here

TILE = 32
"""Columns that are gathered at a time, and entries of a column."""
ROWS = 32
"""Rows of x of a program; Triton's products take 16 at least."""
NONE, BIAS, MATRIX = range(3)
"""What the sums are added to."""


@Kernel
def _forward(  # type: ignore[no-untyped-def]
    x, values, start, column, first_output, base, out, n, columns, outputs,
    kind: tl.constexpr, precision: tl.constexpr, tall: tl.constexpr, tile: tl.constexpr, many: tl.constexpr,
):  # fmt: skip
    panel = tl.program_id(0)
    row = (tl.program_id(1) * many + tl.arange(0, many)).to(tl.int64)
    own = tl.arange(0, tall)
    output = tl.load(first_output + panel) + own
    end = tl.load(first_output + panel + 1)
    first = tl.load(start + panel)
    last = tl.load(start + panel + 1)
    sums = tl.zeros([many, tall], tl.float32)
    for begin in range(first, last, tile):
        block = begin + tl.arange(0, tile)
        there = block < last
        read = tl.load(column + block, mask=there, other=0)
        a = tl.load(
            x + row[:, None] * columns + read[None, :], mask=(row < n)[:, None] & there[None, :], other=0.0
        )
        v = tl.load(values + block[:, None] * tall + own[None, :], mask=there[:, None], other=0.0)
        sums += tl.dot(a, v, input_precision=precision)
    at = row[:, None] * outputs + output[None, :]
    inside = (row < n)[:, None] & (output < end)[None, :]
    if kind == 1:
        sums += tl.load(base + output, mask=output < end, other=0.0)[None, :]
    if kind == 2:
        sums += tl.load(base + at, mask=inside, other=0.0)
        tl.debug_barrier()  # threads that hold the same number have all read it: out may be base
    tl.store(out + at, sums, mask=inside)


@Kernel
def _back(  # type: ignore[no-untyped-def]
    y, values, start, block_of, output_of, end_of, base, out, n, columns, outputs,
    kind: tl.constexpr, tall: tl.constexpr, tile: tl.constexpr, many: tl.constexpr,
):  # fmt: skip
    """One column: the blocks that lie in it, one after the other."""
    column = tl.program_id(0)
    row = (tl.program_id(1) * many + tl.arange(0, many)).to(tl.int64)
    inside = row < n
    last = tl.load(start + column + 1)
    sums = tl.zeros([many], tl.float32)
    for begin in range(tl.load(start + column), last, tile // tall):
        number = tl.arange(0, tile)
        entry = begin + number // tall
        own = number % tall
        output = tl.load(output_of + entry, mask=entry < last, other=0) + own
        there = output < tl.load(end_of + entry, mask=entry < last, other=0)
        block = tl.load(block_of + entry, mask=entry < last, other=0)
        v = tl.load(values + block * tall + own, mask=there, other=0.0)
        a = tl.load(
            y + row[:, None] * outputs + output[None, :], mask=inside[:, None] & there[None, :], other=0.0
        )
        sums += tl.sum(a * v[None, :], 1)
    at = row * columns + column
    if kind == 1:
        sums += tl.load(base + column)
    if kind == 2:
        sums += tl.load(base + at, mask=inside, other=0.0)
        tl.debug_barrier()
    tl.store(out + at, sums, mask=inside)


@Kernel
def _gradient(  # type: ignore[no-untyped-def]
    x, y, start, column, first_output, out, n, columns, outputs,
    precision: tl.constexpr, tall: tl.constexpr, tile: tl.constexpr, many: tl.constexpr,
):  # fmt: skip
    """Some blocks of a panel, over all rows."""
    panel = tl.program_id(0)
    block = tl.load(start + panel) + tl.program_id(1) * tile + tl.arange(0, tile)
    there = block < tl.load(start + panel + 1)
    read = tl.load(column + block, mask=there, other=0)
    own = tl.arange(0, tall)
    output = tl.load(first_output + panel) + own
    end = tl.load(first_output + panel + 1)
    sums = tl.zeros([tile, tall], tl.float32)
    for begin in range(0, n, many):
        row = (begin + tl.arange(0, many)).to(tl.int64)
        inside = row < n
        a = tl.load(
            x + row[None, :] * columns + read[:, None], mask=inside[None, :] & there[:, None], other=0.0
        )
        known = inside[:, None] & (output < end)[None, :]
        d = tl.load(y + row[:, None] * outputs + output[None, :], mask=known, other=0.0)
        sums += tl.dot(a, d, input_precision=precision)
    tl.store(out + block[:, None] * tall + own[None, :], sums, mask=there[:, None])


class Blocks:
    """A layout of blocks as the kernels read it, on the device of some values.

    Attributes:
        start: first block of every panel, and the end.
        column: of every block.
        first_output: first row of every panel, and the end.
        column_start: first entry of every column, and the end.
        block_of: the block of every entry, column by column.
        output_of: the first row of its panel.
        end_of: the row after its panel's last.
        most: blocks of the fullest panel.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        start, count = layout.forth.start.long(), layout.size // TALL
        column = layout.forth.index[:count].long() % MOST
        panel = torch.repeat_interleave(torch.arange(len(start) - 1), start.diff())
        order = column.argsort(stable=True)
        ends = torch.bincount(column, minlength=layout.shape[1]).cumsum(0)
        self.most = int(start.diff().max()) if len(start) > 1 else 0
        row, panel = layout.forth.row, panel[order]
        tables = (start, column, row, torch.cat([ends.new_zeros(1), ends]), order, row[panel], row[panel + 1])
        (
            self.start,
            self.column,
            self.first_output,
            self.column_start,
            self.block_of,
            self.output_of,
            self.end_of,
        ) = (moved(table.int(), device) for table in tables)


def takes(layout: Layout, values: Tensor) -> bool:
    """Whether the kernels take a matrix of this layout with these values.

    Example:
        >>> takes(Layout(torch.ones(16, 2, dtype=torch.bool)), torch.ones(32))
        False
    """
    return values.dtype == torch.float32 and triton_language.takes(values) and layout.blocks


def offered(device: torch.device) -> bool:
    """Whether matrices in blocks can be multiplied on a device by their weights that exist.

    Example:
        >>> offered(torch.device("cpu"))
        False
    """
    return device.type == "cuda" and triton_language.ready()


def _tables(layout: Layout, device: torch.device) -> Blocks:
    found = layout.tables.get(device)
    if not isinstance(found, Blocks):
        found = layout.tables[device] = Blocks(layout, device)
    return found


def _kind(base: Tensor | None) -> int:
    return NONE if base is None else BIAS if base.dim() == 1 else MATRIX


def _out(base: Tensor | None, a: Tensor, width: int) -> Tensor:
    """A base for every row may be overwritten: each of its numbers is read by the program that writes it."""
    return a.new_empty(len(a), width) if base is None or base.dim() == 1 else base


def forward(layout: Layout, values: Tensor, base: Tensor | None, x: Tensor) -> Tensor:
    """base + x S^T as `sparsernn.kernels.sparse_products.SparseFactor.forward`."""
    (outputs, columns), tables, n = layout.shape, _tables(layout, x.device), len(x)
    out = _out(base, x, outputs)
    places = (tables.start, tables.column, tables.first_output)
    tensors = (x, values, *places, values if base is None else base, out)
    sizes = {
        "kind": _kind(base),
        "precision": triton_language.precision(),
        "tall": TALL,
        "tile": TILE,
        "many": ROWS,
    }
    _forward.launch((len(layout.forth.row) - 1, -(-n // ROWS)), *tensors, n, columns, outputs, **sizes)
    return out


def back(layout: Layout, values: Tensor, base: Tensor | None, y: Tensor) -> Tensor:
    """base + y S; else as `forward`."""
    (outputs, columns), tables, n = layout.shape, _tables(layout, y.device), len(y)
    out = _out(base, y, columns)
    places = (tables.column_start, tables.block_of, tables.output_of, tables.end_of)
    tensors = (y, values, *places, values if base is None else base, out)
    sizes = {"kind": _kind(base), "tall": TALL, "tile": TILE, "many": ROWS}
    _back.launch((columns, -(-n // ROWS)), *tensors, n, columns, outputs, **sizes)
    return out


def gradient(layout: Layout, x: Tensor, y: Tensor) -> Tensor:
    """As `sparsernn.kernels.sparse_products.value_gradient`."""
    (outputs, columns), tables, n = layout.shape, _tables(layout, x.device), len(x)
    out = x.new_empty(layout.size)
    programs = (len(layout.forth.row) - 1, -(-tables.most // TILE))
    sizes = {"precision": triton_language.precision(), "tall": TALL, "tile": TILE, "many": ROWS}
    places = (tables.start, tables.column, tables.first_output)
    _gradient.launch(programs, x, y, *places, out, n, columns, outputs, **sizes)
    return out
