"""Ways to hold a weight matrix for products y = W x, each with a compiled product and a twin in torch.

    dense            every weight, float32                  4 bytes per position
    dense_int8       every weight, 8 bits                   1 byte per position
    csr              kept weights, float32, 16-bit columns  6 bytes per kept weight
    csr_int8         kept weights, 8 bits, 16-bit columns   3 bytes per kept weight
    block16          16 consecutive rows x 1 column         4.125 bytes per position of a kept block
    block16_int8     the same in 8 bits                     1.125 bytes per position of a kept block; the number of
                                                            blocks of 16 rows is filled up to a multiple of four

8-bit weights are rounded to 255 levels, symmetric around 0, with one float32 factor per row.
"""

from __future__ import annotations

import ctypes
import warnings
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.forms import form_of
from sparsernn.core.limits import Between
from sparsernn.kernels.library import library

BATCHES = (1, 4, 8, 16)
"""Numbers of columns the compiled products come in; others are padded to the next one."""

BLOCK = 16
"""Rows of a block: one AVX-512 register, two AVX2 ones."""

TOGETHER = 4
"""8-bit blocks of 16 rows that the compiled products read at once: two pairs of columns."""

SLACK = 64
"""Bytes after the last weight of `DenseInt8` that the compiled products may read (and multiply by 0)."""


def scratch_for(columns: int) -> int:
    """16-bit numbers that a thread needs for each column of x, in a product of so many columns."""
    return 2 * ((columns + SLACK - 1) // SLACK * SLACK)


class CMatrix(ctypes.Structure):
    """`Matrix` of common.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "rows", "columns", "unused")),
        *((name, ctypes.c_void_p) for name in ("start", "index", "values", "scale")),
    )


_BATCH = form_of(Annotated[int, Between(1, BATCHES[-1])])  # read once: every product asks


def padded(batch: int) -> int:
    """The number of columns computed for a batch of 1 to 16."""
    _BATCH.refuse("batch", batch)
    return next(size for size in BATCHES if size >= batch)


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 8 bits: int8 of weight's shape and float32 factors (rows,), weight ~ int8 * factor.

    Example:
        >>> to_int8(torch.tensor([[0.5, -1.0]]))[0]
        tensor([[  64, -127]], dtype=torch.int8)
    """
    scale = weight.abs().amax(1) / 127
    steps = weight / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    return steps.round_().clamp_(-127, 127).to(torch.int8), scale


class Format(ABC):
    """One weight matrix (R, C), held in a way of its own.

    Args:
        weight: finite numbers of floating point (R, C), C < 65536, R C < 2^31. Zeros count as absent in the sparse
            formats.
        mask: bool (R, C); given, the weights it keeps are stored even where they are 0.

    Attributes:
        kind: number of the format in common.h.
        shape: (R, C).
        start, index, values, scale: what the compiled product reads (common.h).

    Raises:
        InputError: another shape or type, a mask of another shape, or numbers that are not finite.
    """

    kind: ClassVar[int]
    exact: ClassVar[bool] = True
    sparse: ClassVar[bool] = False

    def __init__(self, weight: Tensor, mask: Tensor | None = None) -> None:
        _check_weight(weight)
        if mask is not None and mask.shape != weight.shape:
            raise InputError(
                f"the mask of a weight of shape {tuple(weight.shape)} has shape {tuple(mask.shape)}; they must agree."
            )
        weight = weight.detach().to("cpu", torch.float32).contiguous()
        self.shape = (weight.shape[0], weight.shape[1])
        self.start = self.index = self.scale = torch.empty(0)
        self.values = self._arrange(weight, weight != 0 if mask is None else mask.to("cpu", torch.bool))
        self._twin: Tensor | None = None
        self.structure = CMatrix(self.kind, *self.shape, 0, *(t.data_ptr() for t in self._tensors()))

    @abstractmethod
    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        """Sets start, index and scale as needed; returns the values."""

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.start, self.index, self.values, self.scale

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    @abstractmethod
    def restored(self) -> Tensor:
        """The dense float32 matrix (R, C) that the products stand for."""

    def twin(self) -> Tensor:
        """What torch multiplies with: the dense matrix, or a torch CSR tensor; made at first use."""
        if self._twin is None:
            dense = self.restored()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                self._twin = dense.to_sparse_csr() if self.sparse else dense
        return self._twin

    def multiply(self, x: Tensor, threads: int | None = None) -> Tensor:
        """W x for x (C, B) float32, B from 1 to 16 -> (R, B).

        Raises:
            InputError: an x of another shape or type, or an impossible number of threads.
        """
        if x.ndim != 2 or x.shape[0] != self.shape[1] or x.dtype != torch.float32 or not x.is_cpu:
            raise InputError(
                f"x is {x.dtype} of shape {tuple(x.shape)}; it must be float32 on the CPU and ({self.shape[1]}, B)."
            )
        found, used, batch = library(), x.shape[1], padded(x.shape[1])
        if found is None:
            return self.twin() @ x
        threads = found.threads(threads)
        x = functional.pad(x, (0, batch - used)).contiguous()
        y = torch.empty(self.shape[0], batch)
        scratch = torch.empty(threads * batch * scratch_for(self.shape[1]), dtype=torch.int16)
        pointers = (
            ctypes.addressof(self.structure),
            x.data_ptr(),
            y.data_ptr(),
            batch,
            scratch.data_ptr(),
            threads,
        )
        found.multiply(*pointers)
        return y[:, :used]


class Dense(Format):
    """Every weight in float32."""

    kind = 0

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept, weight, 0.0)

    def restored(self) -> Tensor:
        """The weight itself."""
        return self.values


class DenseInt8(Format):
    """Every weight in 8 bits."""

    kind, exact = 1, False

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        values, self.scale = to_int8(torch.where(kept, weight, 0.0))
        self.start = values.sum(1, dtype=torch.int32)
        return _with_slack(values)

    def restored(self) -> Tensor:
        """The rounded weights."""
        return self.values * self.scale.unsqueeze(1)


class Csr(Format):
    """Kept weights row by row, with 16-bit column numbers."""

    kind, sparse = 2, True

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        self.start = _starts(kept)
        self.index = kept.nonzero()[:, 1].to(torch.uint16)
        return weight[kept]

    def _rows(self) -> Tensor:
        return torch.arange(self.shape[0]).repeat_interleave(self.start.diff())

    def restored(self) -> Tensor:
        """Kept weights in their places, zeros elsewhere."""
        dense = torch.zeros(self.shape)
        dense[self._rows(), self.index.long()] = self._floats()
        return dense

    def _floats(self) -> Tensor:
        return self.values


class CsrInt8(Csr):
    """The same with 8-bit values."""

    kind, exact = 3, False

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        rounded, self.scale = to_int8(torch.where(kept, weight, 0.0))
        super()._arrange(weight, kept)
        return rounded[kept]

    def _floats(self) -> Tensor:
        return self.values * self.scale[self._rows()]


class Block16(Format):
    """Blocks of 16 consecutive rows in one column; a block is kept if any weight in it is."""

    kind, sparse = 4, True

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        weight = torch.where(kept, weight, 0.0)
        groups = _row_groups(kept).any(1)
        self.start = _starts(groups)
        place = groups.nonzero()
        self.index = place[:, 1].to(torch.uint16)
        return _row_groups(self._encode(weight))[place[:, 0], :, place[:, 1]].contiguous()

    def _encode(self, weight: Tensor) -> Tensor:
        return weight

    def restored(self) -> Tensor:
        """Kept blocks in their places, zeros elsewhere."""
        groups = self.start.numel() - 1
        dense = torch.zeros(groups, BLOCK, self.shape[1])
        place = torch.arange(groups).repeat_interleave(self.start.diff())
        dense.transpose(1, 2).index_put_((place, self.index.long()), self._floats(), accumulate=True)
        return self._decode(dense.reshape(groups * BLOCK, -1)[: self.shape[0]])

    def _floats(self) -> Tensor:
        """The blocks (blocks, 16)."""
        return self.values

    def _decode(self, dense: Tensor) -> Tensor:
        return dense


class Block16Int8(Block16):
    """The same with 8-bit values, in pairs of blocks: (pairs, 16, 2).

    The blocks of 16 rows are filled up to a multiple of four, by blocks of 0 in the first column.
    """

    kind, exact = 5, False

    def _arrange(self, weight: Tensor, kept: Tensor) -> Tensor:
        blocks = super()._arrange(weight, kept)
        counts, begun = self.start.diff(), self.start[:-1]
        filled = (counts + TOGETHER - 1) // TOGETHER * TOGETHER
        self.start = functional.pad(filled.cumsum(0), (1, 0)).to(torch.int32)
        place = torch.arange(len(blocks)) + (self.start[:-1] - begun).repeat_interleave(counts)
        total = int(self.start[-1])
        values, index = blocks.new_zeros(total, BLOCK), torch.zeros(total, dtype=torch.int64)
        values[place], index[place] = blocks, self.index.long()
        self.index = index.to(torch.uint16)
        return values.view(-1, 2, BLOCK).transpose(1, 2).contiguous()

    def _floats(self) -> Tensor:
        return self.values.transpose(1, 2).reshape(-1, BLOCK).float()

    def _encode(self, weight: Tensor) -> Tensor:
        values, self.scale = to_int8(weight)
        return values

    def _decode(self, dense: Tensor) -> Tensor:
        return dense * self.scale.unsqueeze(1)


def _with_slack(values: Tensor) -> Tensor:
    room = torch.zeros(values.numel() + SLACK, dtype=values.dtype)
    return room[: values.numel()].view(values.shape).copy_(values)


def _check_weight(weight: Tensor) -> None:
    """The products count columns in 16 bits and kept weights in 31."""
    fits = weight.ndim == 2 and 0 < weight.shape[1] < 1 << 16 and 0 < weight.numel() < 1 << 31
    if not (fits and weight.is_floating_point()):
        raise InputError(
            f"a weight of {weight.dtype} and shape {tuple(weight.shape)} has no inference product; it needs floats, "
            "two axes, from 1 to 65535 columns and fewer than 2^31 weights."
        )
    if not bool(torch.isfinite(weight).all()):
        raise InputError(
            f"a weight of shape {tuple(weight.shape)} has numbers that are not finite, so no product would be."
        )


def _starts(kept: Tensor) -> Tensor:
    return functional.pad(kept.sum(1).cumsum(0), (1, 0)).to(torch.int32)


def _row_groups(matrix: Tensor) -> Tensor:
    """(R, C) -> (groups, 16, C), the last group filled up with zeros."""
    filled = functional.pad(matrix, (0, 0, 0, -matrix.shape[0] % BLOCK))
    return filled.reshape(-1, BLOCK, matrix.shape[1])


FORMATS: dict[str, type[Format]] = {
    "dense": Dense,
    "dense_int8": DenseInt8,
    "csr": Csr,
    "csr_int8": CsrInt8,
    "block16": Block16,
    "block16_int8": Block16Int8,
}
"""Name -> class."""
