"""Where the weights of a sparse matrix lie, for products that leave out the others.

A layout is made from a mask, once for as long as the mask stays. It knows two forms: blocks of up to 16 rows in one
column (where neighbouring rows have the same columns), and single weights. `values` are the weights that exist, in
the order of the layout.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsernn.core.devices import moved
from sparsernn.core.errors import InputError
from sparsernn.kernels.library import Library, library
from sparsernn.kernels.row_layout import Rows

TALL = 16
"""Rows of a block, as in sparse_blocks.c; those of a lower one are filled up with 0."""

MOST_FILLED = 2
"""Numbers kept for each weight up to which blocks are taken. There it is a draw: half blocks of 1500 -> 6000 at
density .33 take 3.0 ms with 20 rows either way (one thread of a Xeon with AVX-512); devices know blocks only."""

STRIP = 256
"""Columns of a strip of single weights: what 32 rows of x have there are 32 KiB."""

AHEAD = 8
"""Numbers after the last place: the products look ahead."""

MOST = 1 << 16
"""Rows and columns stay below; places are kept in 16 bits."""

MOST_NUMBERS = 1 << 31
"""Entries of a matrix stay below; places in it are kept in 32 bits."""


class CPlaces(ctypes.Structure):
    """`Places` of tiles.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "columns", "strips", "panels")),
        *((name, ctypes.c_void_p) for name in ("start", "index", "values", "row")),
    )


class Table:
    """The places of one form and direction, as the compiled products read them.

    Attributes:
        shape: rows and columns.
        start: int32, see tiles.h.
        index: int16 that holds unsigned numbers.
        row: int32, first row of every panel of blocks, and the end; empty for single weights.
    """

    def __init__(
        self, shape: tuple[int, int], strips: int, start: Tensor, index: Tensor, row: Tensor | None = None
    ) -> None:
        self.shape, self.strips = shape, strips
        self.start = start.int().contiguous()
        self.row = torch.empty(0, dtype=torch.int32) if row is None else row.int().contiguous()
        self.index = _in_16_bits(torch.cat([index, index.new_zeros(AHEAD)]))

    def with_values(self, values: Tensor) -> CPlaces:
        """The structure, with these values."""
        places = (self.start, self.index, values, self.row)
        panels = max(len(self.row) - 1, 0)
        return CPlaces(*self.shape, self.strips, panels, *(table.data_ptr() for table in places))


def _in_16_bits(numbers: Tensor) -> Tensor:
    return torch.where(numbers >= MOST // 2, numbers - MOST, numbers).to(torch.int16).contiguous()


class Layout:
    """The places of the weights of a matrix S (rows, columns).

    Args:
        mask: bool, True where a weight exists.

    Attributes:
        shape: rows and columns, each below 65536, and below 2^31 entries together.
        blocks: whether weights exist in blocks of up to 16 rows x 1 column, most of which are that high.
        count: how many weights exist.
        size: how many numbers `values` has: `count`, and for blocks the rows that they lack of 16, which are 0.
        tables: what other devices' products keep of it, by device.

    Raises:
        InputError: another shape or type, or a matrix that is too large.

    Example:
        >>> layout = Layout(torch.tensor([[True, False], [False, True]]))
        >>> layout.blocks, layout.take(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
        (False, [1.0, 4.0])
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dim() != 2 or mask.dtype != torch.bool:
            raise InputError(
                f"a mask of {mask.dtype} and shape {tuple(mask.shape)} has no layout; it must be bool (R, C)."
            )
        if max(mask.shape) >= MOST or mask.numel() >= MOST_NUMBERS:
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} has no layout; rows and columns must be below {MOST}, and "
                "entries below 2^31."
            )
        mask = mask.detach().cpu()
        self.shape = (mask.shape[0], mask.shape[1])
        self.count = int(mask.count_nonzero())
        self.tables: dict[torch.device, object] = {}
        self._there: dict[torch.device, tuple[Tensor, Tensor | None]] = {}
        row = _panels(mask)
        grid = mask[row[:-1]]
        self.size = int(grid.count_nonzero()) * TALL
        self.blocks = self.size <= MOST_FILLED * self.count
        if self.blocks:
            panel, column = grid.nonzero(as_tuple=True)
            self.forth = Table(self.shape, 0, _starts(panel, len(grid)), column, row)
        else:
            self._of_singles(mask)

    def _block_places(self) -> tuple[Tensor, Tensor | None]:
        """Where the numbers of blocks lie in the dense matrix, and which no row is for; for the twins."""
        columns = self.shape[1]
        starts, index = self.forth.start.long(), self.forth.index[: self.size // TALL].long() % MOST
        first, end = self.forth.row[:-1].long(), self.forth.row[1:].long()
        panel = torch.repeat_interleave(torch.arange(len(first)), starts.diff())
        row, last = first[panel].unsqueeze(1) + torch.arange(TALL), end[panel].unsqueeze(1) - 1
        inside = row <= last
        places = (row.minimum(last) * columns + index.unsqueeze(1)).flatten()
        return places, None if bool(inside.all()) else ~inside.flatten()

    def _places_on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """`_block_places`, or those of single weights, sent to a device once."""
        if device not in self._there:
            places, padding = self._block_places() if self.blocks else (self.places.long(), None)
            self._there[device] = moved((places, padding), device)
        return self._there[device]

    def _of_singles(self, mask: Tensor) -> None:
        columns = self.shape[1]
        self.forth, row, column = _strips(mask)
        self.places, self.size = (row * columns + column).int(), len(row)
        self.back, turned_row, turned_column = _strips(mask.t())
        rank = torch.empty(mask.numel(), dtype=torch.int32)
        rank[self.places.long()] = torch.arange(len(self.places), dtype=torch.int32)
        self.turned = rank[turned_column * columns + turned_row]

    @property
    def density(self) -> float:
        """Share of the weights that exist, in [0, 1]; 1 for a matrix without entries.

        Example:
            >>> Layout(torch.eye(4, dtype=torch.bool)).density
            0.25
        """
        whole = self.shape[0] * self.shape[1]
        return self.count / whole if whole else 1.0

    def take(self, dense: Tensor) -> Tensor:
        """The values (size,) of a dense matrix of this shape; without gradients.

        Raises:
            InputError: another shape.
        """
        if dense.shape != self.shape:
            raise InputError(
                f"a matrix of shape {tuple(dense.shape)} met a layout of shape {self.shape}; they must agree."
            )
        dense = dense.detach().contiguous()
        found = compiled_for(dense)
        if found is None:
            places, padding = self._places_on(dense.device)
            values = dense.flatten()[places]
            return values if padding is None else values.masked_fill(padding, 0)
        values, threads = dense.new_empty(self.size), _threads(found, self.size)
        if self.blocks:
            table = self.forth.with_values(values)
            found.blocks_take(ctypes.addressof(table), dense.data_ptr(), values.data_ptr(), threads)
        else:
            pointers = (dense.data_ptr(), self.places.data_ptr(), values.data_ptr())
            found.singles_take(*pointers, self.size, threads)
        return values

    def rows(self, which: Tensor) -> Rows:
        """Some rows, int64 (N,), on the CPU.

        Example:
            >>> layout = Layout(torch.eye(3, dtype=torch.bool))
            >>> layout.rows(torch.tensor([2])).matrix(torch.tensor([1.0, 2.0, 3.0])).tolist()
            [[0.0, 0.0, 3.0]]
        """
        start = self.forth.start.long()
        if self.blocks:
            panel = torch.searchsorted(self.forth.row.long(), which, right=True) - 1
            owner, block = _stretches(start[panel], start[panel + 1])
            places = block * TALL + (which - self.forth.row.long()[panel])[owner]
        else:
            strip = torch.arange(self.forth.strips).unsqueeze(1) * self.shape[0]
            at = (strip + which).flatten()
            owner, block = _stretches(start[at], start[at + 1])
            owner, places = owner % max(len(which), 1), block
        return Rows(places, owner, self.forth.index[block].long() % MOST, (len(which), self.shape[1]))

    def put(self, values: Tensor) -> Tensor:
        """The dense matrix with these values (size,), 0 elsewhere; without gradients.

        Example:
            >>> layout = Layout(torch.eye(2, dtype=torch.bool))
            >>> layout.put(torch.tensor([5.0, 6.0])).tolist()
            [[5.0, 0.0], [0.0, 6.0]]
        """
        if values.shape != (self.size,):
            raise InputError(
                f"{tuple(values.shape)} values met a layout of {self.size} places; there must be one for each."
            )
        values = values.detach().contiguous()
        found = compiled_for(values)
        rows, columns = self.shape
        if found is None:
            dense = values.new_zeros(rows * columns)
            places, padding = self._places_on(values.device)
            # what lies beyond the last row is added as 0: to leave it out, a device would be asked how much it is
            added = values if padding is None else values.masked_fill(padding, 0)
            return dense.index_add_(0, places, added).view(rows, columns)
        dense, threads = values.new_empty(rows, columns), _threads(found, rows * columns)
        if self.blocks:
            table = self.forth.with_values(values)
            found.blocks_put(ctypes.addressof(table), values.data_ptr(), dense.data_ptr(), threads)
        else:
            pointers = (values.data_ptr(), self.places.data_ptr(), dense.data_ptr())
            found.singles_put(*pointers, self.size, dense.numel(), threads)
        return dense

    def transposed(self, values: Tensor) -> Tensor:
        """The values of single weights in the order of the transposed matrix."""
        found = compiled_for(values)
        if found is None:
            return values[self.turned.long()]
        out = torch.empty_like(values)
        pointers = (values.data_ptr(), self.turned.data_ptr(), out.data_ptr())
        found.singles_take(*pointers, self.size, _threads(found, self.size))
        return out


SHARED_FROM = 1 << 17
"""Numbers to copy from which they are shared out among threads."""


def compiled_for(tensor: Tensor) -> Library | None:
    """The library, for float32 on the CPU; None where the twins do the work."""
    return library() if tensor.dtype == torch.float32 and tensor.device.type == "cpu" else None


def _threads(found: Library, numbers: int) -> int:
    return int(found.threads_between()) if numbers >= SHARED_FROM else 1


def _panels(mask: Tensor) -> Tensor:
    """First rows of panels, and the end: up to 16 neighbouring rows that have the same columns."""
    rows = len(mask)
    number = torch.arange(rows)
    other = torch.ones(rows, dtype=torch.bool)
    torch.any(mask[1:] != mask[:-1], 1, out=other[1:])
    first_alike = torch.where(other, number, 0).cummax(0).values if rows else number
    begins = (number - first_alike) % TALL == 0
    return torch.cat([begins.nonzero().squeeze(1), torch.tensor([rows])])


def _stretches(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers from each `first` to the `end` with it, one after the other, and of which stretch each is."""
    counts = end - first
    owner = torch.repeat_interleave(torch.arange(len(first)), counts)
    before = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner)) + (first - before)[owner]


def _starts(owner: Tensor, owners: int) -> Tensor:
    """Where those of each owner begin among all, and the end; `owner` ascends."""
    counts = torch.bincount(owner, minlength=owners)[:owners] if owners else owner.new_zeros(0)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _strips(mask: Tensor) -> tuple[Table, Tensor, Tensor]:
    """Single weights, strip after strip: the table, and the row and column of each."""
    rows, columns = mask.shape
    strips = [part.contiguous().nonzero() for part in torch.split(mask, STRIP, 1)] if mask.numel() else []
    places = torch.cat(
        [part + torch.tensor([0, k * STRIP]) for k, part in enumerate(strips)] or [mask.nonzero()]
    )
    row, column = places.unbind(1)
    start = _starts(column // STRIP * rows + row, len(strips) * rows)
    return Table((rows, columns), len(strips), start, column), row, column
