"""Tables of constants in C, and weight matrices among them: every weight, blocks of 16 rows, single weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.kernels.group_rounding import GROUP, from_int4, to_int4, to_nibbles
from sparsernn.kernels.weight_formats import to_int8

VALUES = ("float32", "int8", "int4")
"""What weights can be written as."""
Numbers = npt.NDArray[Any]
BLOCK = 16
"""Rows of a block, as in `kernels.weight_formats`."""
LARGEST_SUM = 2**31 - 1
LARGEST_STEP = 32767
"""Of a vector in 16 bits."""
SMALLEST = 1e-30
"""Vectors none of whose numbers is larger count as zeros: their factor would not be finite."""
WIDTH = 100
TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.uint16): "uint16_t",
    np.dtype(np.uint32): "uint32_t",
    np.dtype(np.int32): "int32_t",
}
Floats = npt.NDArray[np.float32]


def literal(value: float) -> str:
    """A float32 as C reads it back, to the bit.

    >>> literal(1.0), literal(-0.1), literal(1e-20)
    ('1.0f', '-0.1f', '1e-20f')
    """
    text = f"{value:.9g}"
    text = text if "." in text or "e" in text else text + ".0"
    shorter = f"{value:.6g}"  # what needs no nine digits is given with fewer, which are the same number
    if np.float32(shorter) == np.float32(value) and len(shorter) < len(text):
        text = shorter if "." in shorter or "e" in shorter else shorter + ".0"
    return text + "f"


@dataclass(frozen=True)
class Constant:
    """A table in flash.

    Attributes:
        name: in C.
        values: one axis, of a type in `TYPES`, not empty.
    """

    name: str
    values: Numbers

    @property
    def bytes(self) -> int:
        """In flash."""
        return int(self.values.nbytes)

    @property
    def type(self) -> str:
        """In C."""
        return TYPES[self.values.dtype]

    def text(self) -> str:
        """The definition.

        Example:
            >>> print(Constant("a", np.array([1, 2], dtype=np.int8)).text(), end="")
            static const int8_t a[2] = {
            1, 2
            };
        """
        print_one = literal if self.values.dtype == np.float32 else str
        rows = _wrapped(print_one(value) for value in self.values.tolist())
        return (
            f"static const {self.type} {self.name}[{len(self.values)}] = {{\n" + ",\n".join(rows) + "\n};\n"
        )


def _wrapped(words: Iterable[str]) -> Iterator[str]:
    line: list[str] = []
    length = 0
    for word in words:
        if line and length + len(word) > WIDTH:
            yield ", ".join(line)
            line, length = [], 0
        line.append(word)
        length += len(word) + 2
    yield ", ".join(line)


def vector(name: str, tensor: Tensor) -> Constant:
    """A table of floats.

    Raises:
        InputError: numbers that are not finite.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"'{name}' has numbers that are not finite, so no device could compute with it.")
    return Constant(name, np.ascontiguousarray(tensor.detach().cpu().float().numpy().reshape(-1)))


class Matrix:
    """A weight (R, C) in flash, in the smallest of four layouts, and the twin of its rounded product.

        dense    every weight: 4 bytes, 1, or half a one
        blocks   16 consecutive rows of one column where any of them is not 0, and the column's number
        csr      the weights that are not 0, and the column's number of each: 1 byte up to 256 columns, 2 above
        bits     the weights that are not 0, and one bit for each position

    In 8 bits each row has one float32 factor, in 4 bits each 64 columns of a row one of 16 bits. The vector it is
    multiplied with is rounded to 16 bits with one factor (to so few steps that no sum can leave 32 bits), so that
    sums are whole numbers and the same everywhere.

    Args:
        name: in C.
        weight: finite numbers of floating point (R, C).
        values: one of `VALUES`.

    Attributes:
        layout: "dense", "blocks", "csr" or "bits".
        constants: the tables.
        steps: to each side of 0 that the vector is rounded to.

    Raises:
        InputError: numbers that are not finite.

    Example:
        >>> Matrix("w", torch.eye(64), "int8").layout
        'csr'
        >>> Matrix("w", torch.ones(64, 64), "int8").bytes
        4352
        >>> Matrix("w", torch.ones(64, 64), "int4").bytes
        2176
    """

    def __init__(self, name: str, weight: Tensor, values: str) -> None:
        weight = weight.detach().cpu().float()
        self.rows, self.columns = weight.shape
        if not bool(torch.isfinite(weight).all()):
            raise InputError(f"'{name}' has numbers that are not finite, so no device could compute with it.")
        self.name, self.kind = name, values
        self.values: Numbers = weight.numpy()
        self.scale: Floats | None = None
        if values != "float32":
            rounded, scale = (to_int8 if values == "int8" else to_int4)(weight)
            if not bool(torch.isfinite(scale).all()):
                raise InputError(
                    f"'{name}' has numbers that are too large for {values[-1]} bits; use float32."
                )
            self.values, self.scale = rounded.numpy(), scale.numpy()
        # a group's sum in 4 bits always fits
        self.steps = min(LARGEST_STEP, LARGEST_SUM // (127 * (1 if values == "int4" else self.columns)))
        layouts = {"dense": self._dense(), "blocks": self._blocks(), "csr": self._csr(), "bits": self._bits()}
        self.layout = min(layouts, key=lambda name: sum(table.bytes for table in layouts[name]))
        self.constants = layouts[self.layout]
        if self.scale is not None:
            factors = self.scale.view(np.uint16) if values == "int4" else self.scale
            self.constants.append(Constant(f"{name}_scale", np.ascontiguousarray(factors.reshape(-1))))

    @property
    def bytes(self) -> int:
        """In flash."""
        return sum(table.bytes for table in self.constants)

    def _dense(self) -> list[Constant]:
        return [self._weights(self.values.reshape(-1))]

    def _weights(self, values: Numbers) -> Constant:
        if self.kind == "int4":
            values = to_nibbles(torch.from_numpy(np.ascontiguousarray(values))).numpy()
        return Constant(self.name, np.ascontiguousarray(values))

    def _csr(self) -> list[Constant]:
        kept = _some(self.values != 0)
        return self._sparse(self.values[kept], kept)

    def _bits(self) -> list[Constant]:
        kept = _some(self.values != 0)
        values, _, start = self._sparse(self.values[kept], kept)
        bits = np.packbits(kept, axis=1, bitorder="little").reshape(-1)
        return [values, Constant(f"{self.name}_bits", bits), start]

    def _blocks(self) -> list[Constant]:
        missing = -self.rows % BLOCK
        groups = np.pad(self.values, ((0, missing), (0, 0))).reshape(-1, BLOCK, self.columns)
        kept = _some((groups != 0).any(1))
        return self._sparse(groups.transpose(0, 2, 1)[kept].reshape(-1), kept)

    def _sparse(self, values: Numbers, kept: npt.NDArray[np.bool_]) -> list[Constant]:
        start = np.concatenate([[0], kept.sum(1).cumsum()])
        return [
            self._weights(values),
            Constant(f"{self.name}_column", kept.nonzero()[1].astype(_counter(self.columns - 1))),
            Constant(f"{self.name}_start", start.astype(_counter(int(start[-1]), least=np.uint16))),
        ]

    def arguments(self) -> str:
        """The tables as the functions of `c_functions` take them."""
        names = [table.name for table in self.constants]
        columns = [str(self.columns)] if self.layout in ("dense", "bits") or self.kind == "int4" else []
        return ", ".join([*names, *columns])

    def row(self, number: int) -> Floats:
        """Twin of a row's look-up, (C,)."""
        assert self.scale is not None
        if self.kind == "int4":
            one = slice(number, number + 1)
            values, scale = torch.from_numpy(self.values[one]), torch.from_numpy(self.scale[one])
            restored: Floats = from_int4(values, scale)[0].numpy()
            return restored
        row: Floats = self.scale[number] * self.values[number].astype(np.float32)
        return row

    def add(self, y: Floats, x: Floats) -> None:
        """Twin of y += W x in rounded numbers: the same operations in the same order, so the same bits."""
        assert self.scale is not None
        rounded, unit = in_steps(x, self.steps)
        if self.kind == "int4":
            y += unit * self._of_groups(rounded)
            return
        sums = self.values.astype(np.int64) @ rounded
        y += (self.scale * unit) * sums.astype(np.float32)

    def _of_groups(self, rounded: npt.NDArray[np.int64]) -> Floats:
        """The sums of the groups of each row, one added after the other, (R,)."""
        assert self.scale is not None
        total = np.zeros(self.rows, np.float32)
        for number, start in enumerate(range(0, self.columns, GROUP)):
            own = slice(start, start + GROUP)
            sums = self.values[:, own].astype(np.int64) @ rounded[own]
            total += self.scale[:, number].astype(np.float32) * sums.astype(np.float32)
        return total


def in_steps(x: Floats, steps: int) -> tuple[npt.NDArray[np.int64], np.float32]:
    """A vector rounded to whole numbers from -steps to steps, and the factor that brings it back.

    Example:
        >>> q, unit = in_steps(np.array([0.5, -1.0], dtype=np.float32), 100)
        >>> q.tolist(), float(unit)
        ([50, -100], 0.009999999776482582)
    """
    most = np.float32(steps)
    largest = np.abs(x).max()
    if not largest > np.float32(SMALLEST):
        return np.zeros(len(x), np.int64), np.float32(0)
    v = np.clip(x * (most / largest), -most, most)
    return np.trunc(v + np.copysign(np.float32(0.5), v)).astype(np.int64), largest / most


def _some(kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A table in C has at least one entry."""
    if not kept.any():
        kept = kept.copy()
        kept[0, 0] = True
    return kept


def _counter(largest: int, least: type[np.unsignedinteger] = np.uint8) -> type[np.unsignedinteger]:
    kinds = [kind for kind in (np.uint8, np.uint16, np.uint32) if np.iinfo(kind).max >= np.iinfo(least).max]
    return next(kind for kind in kinds if largest <= np.iinfo(kind).max)
