"""A model as a list of steps that C goes through in one call, with places for all that they read and write."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.kernels.weight_formats import SLACK, CMatrix, Format, scratch_for

KINDS = (
    *(
        "lookup",
        "affine",
        "copy",
        "keep",
        "tanh",
        "relu",
        "modrelu",
        "lstm",
        "gru",
        "highway",
        "free_highway",
    ),
    *("masters", "ordered", "pool_f", "pool_fo", "pool_ifo", "norm", "shift", "mix"),
)
"""In the order of steps.c."""


class CStep(ctypes.Structure):
    """`Step` of steps.c."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("kind", "rows", "y", "a", "b", "c", "more", "size", "wait", "turn")
        ),
        ("factor", ctypes.c_float),
        ("vector", ctypes.c_void_p),
        ("first", ctypes.POINTER(CMatrix)),
        ("second", ctypes.POINTER(CMatrix)),
    )


class CPass(ctypes.Structure):
    """`Pass` of steps.c."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("first", "last", "backwards"))


class CList(ctypes.Structure):
    """`List` of steps.c."""

    _fields_ = (
        ("steps", ctypes.POINTER(CStep)),
        ("passes", ctypes.POINTER(CPass)),
        *(
            (name, ctypes.c_int32)
            for name in ("count", "moving_rows", "scratch_stride", "outputs", "output_rows")
        ),
    )


class CCall(ctypes.Structure):
    """`Call` of steps.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("fixed", "moving", "scratch", "tokens", "lengths", "answers")),
        *((name, ctypes.c_int32) for name in ("time", "used", "batch", "threads")),
    )


class Place(NamedTuple):
    """Rows of a store.

    Attributes:
        row: the first.
        rows: how many.
        moving: whether each time step has them for itself.
    """

    row: int
    rows: int
    moving: bool = False

    def part(self, first: int, rows: int) -> Place:
        """Some of them."""
        return Place(self.row + first, rows, self.moving)

    @property
    def number(self) -> int:
        """As C reads it."""
        return ~self.row if self.moving else self.row


NOWHERE = Place(0, 0)


@dataclass
class Step:
    """One entry; what each kind does with its operands is in `step_twins`.

    Attributes:
        kind: of `KINDS`.
        y: where the result goes, and how many rows it has.
        a, b, c: operands.
        size: chunks, experts, or whether c is read.
        factor: of a pooling, or a logarithm.
        vector: (rows,), of an affine step.
        first, second: matrices; the first is the table of a look-up.
        rows: of the result, where it is not y's.
        wait: whether the next step needs what this one makes.
    """

    kind: str
    y: Place
    a: Place = NOWHERE
    b: Place = NOWHERE
    c: Place = NOWHERE
    size: int = 0
    factor: float = 0.0
    vector: Tensor | None = None
    first: Format | None = None
    second: Format | None = None
    rows: int = 0
    wait: bool = True


@dataclass
class StepList:
    """Steps in passes over time, and how many rows of each store they need.

    Attributes:
        passes: (steps, whether time runs backwards), one after the other.
        fixed, moving: rows of the two stores.
        states: of each layer the places of its state's tensors.
        constants: (place, values (rows,)) that are in the fixed store from the beginning.
        inputs: where the vector of each time step is put before a call; `NOWHERE` where words are looked up.

    Example:
        >>> steps = StepList()
        >>> x, y = steps.room(3), steps.room(3)
        >>> steps.add(Step("tanh", y, x))
        >>> steps.fixed, len(steps.passes)
        (6, 1)
    """

    passes: list[tuple[list[Step], bool]] = field(default_factory=lambda: [([], False)])
    fixed: int = 0
    moving: int = 0
    states: list[tuple[Place, ...]] = field(default_factory=list)
    constants: list[tuple[Place, Tensor]] = field(default_factory=list)
    inputs: Place = NOWHERE

    def room(self, rows: int) -> Place:
        """New rows of the fixed store."""
        self.fixed += rows
        return Place(self.fixed - rows, rows)

    def moving_room(self, rows: int) -> Place:
        """New rows of the moving store."""
        self.moving += rows
        return Place(self.moving - rows, rows, True)

    def constant(self, values: Tensor) -> Place:
        """Rows that keep these values in all columns."""
        place = self.room(len(values))
        self.constants.append((place, values))
        return place

    def add(self, *steps: Step) -> None:
        """To the pass that is being written."""
        self.passes[-1][0].extend(steps)

    def new_pass(self, backwards: bool = False) -> None:
        """What follows begins when all time steps are through what came before."""
        self.passes.append(([], backwards))

    def matrices(self) -> list[Format]:
        """All that products are taken with."""
        steps = [step for part, _ in self.passes for step in part]
        return [m for step in steps for m in (step.first, step.second) if m is not None]

    def vectors(self) -> list[Tensor]:
        """All that products are added to."""
        return [step.vector for part, _ in self.passes for step in part if step.vector is not None]


class CompiledList:
    """A `StepList` as C reads it; keeps alive what it points to.

    Args:
        steps: the list.
        outputs: what goes out at each time step, once its last step is done.

    Attributes:
        structure: `List` of steps.c.
        scratch: 16-bit numbers that a thread needs for each column.
    """

    def __init__(self, steps: StepList, outputs: Place) -> None:
        self.list = steps
        widest = max((m.shape[1] for m in steps.matrices()), default=0)
        self.scratch = scratch_for(widest + SLACK)  # 64 bytes and more apart: no shared cache lines
        flat = [step for part, _ in steps.passes for step in part]
        self._steps = (CStep * len(flat))(*(_structure(step, turn) for turn, step in enumerate(flat)))
        borders = _borders([len(part) for part, _ in steps.passes])
        backwards = [turned for _, turned in steps.passes]
        self._passes = (CPass * len(borders))(
            *(CPass(*span, way) for span, way in zip(borders, backwards, strict=True))
        )
        sizes = (len(borders), steps.moving, self.scratch, outputs.number, outputs.rows)
        self.structure = CList(self._steps, self._passes, *sizes)


def _borders(counts: Sequence[int]) -> list[tuple[int, int]]:
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _structure(step: Step, turn: int) -> CStep:
    matrices = [None if m is None else ctypes.pointer(m.structure) for m in (step.first, step.second)]
    return CStep(
        KINDS.index(step.kind),
        step.rows or step.y.rows,
        *(place.number for place in (step.y, step.a, step.b, step.c)),
        step.b.rows,
        step.size,
        step.wait,
        turn,
        step.factor,
        None if step.vector is None else step.vector.data_ptr(),
        *matrices,
    )
