"""Layers that drive a cell over time."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparsernn.core.devices import moved
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.states import State
from sparsernn.core.torch_releases import is_exporting
from sparsernn.nn.drive.captured_loop import CapturedLoops
from sparsernn.nn.drive.cell import Cell, CellState, StagedCell, step
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.scan import scan, scan_naively
from sparsernn.nn.window_shapes import check_window
from sparsernn.structure.gates import GateBlock
from sparsernn.structure.units import Slice


class Recurrent(Layer):
    """A cell, step after step.

    Args:
        cell: any `Cell`; a `StagedCell` runs on the fast loop.
        batch_first: x and y are (B, T, .) instead of (T, B, .).
        reverse: read the sequence from its end; y is in the order of x.
        learn_initial_state: the state before the first step is a parameter (zeros at first) instead of zeros.
        naive: run a staged cell on the plain loop under autograd, for comparison.
        captured: send windows of training to a CUDA device as CUDA graphs, one for each shape that comes often, where
            the cell is a staged one; see `sparsernn.nn.drive.captured_loop`. Never tried on a card.

    The state is a tuple of `cell.parts` tensors (B, H).

    Example:
        >>> from sparsernn.nn.cells.rhn import RHNCell
        >>> y, (s,) = Recurrent(RHNCell(3, 5, depth=2))(torch.zeros(7, 2, 3))
        >>> y.shape, s.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 5]))
    """

    captured = False  # of layers that were saved as a whole before there was such a thing

    def __init__(
        self,
        cell: Cell,
        *,
        batch_first: bool = False,
        reverse: bool = False,
        learn_initial_state: bool = False,
        naive: bool = False,
        captured: bool = False,
    ) -> None:
        super().__init__()
        self.cell, self.batch_first, self.reverse, self.naive = cell, batch_first, reverse, naive
        self.captured, self._loops = captured, CapturedLoops()
        self.gates = cell.gates
        starts = [nn.Parameter(torch.zeros(cell.hidden_size)) for _ in range(cell.parts)]
        self.start = nn.ParameterList(starts if learn_initial_state else [])

    @property
    def input_size(self) -> int:
        """I."""
        return self.cell.input_size

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.cell.hidden_size

    def initial_state(self, batch: int) -> CellState:
        """`cell.parts` tensors (B, H): zeros, or what was learnt."""
        if len(self.start):
            return tuple(start.expand(batch, -1) for start in self.start)
        like: Tensor = next(self.cell.parameters(), torch.zeros(()))
        return tuple(like.new_zeros(batch, self.hidden_size) for _ in range(self.cell.parts))

    def forward(
        self, x: Tensor, state: CellState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        """Read a window.

        Args:
            x: (T, B, I), or (B, T, I) with `batch_first`.
            state: before the first step; `initial_state(B)` when missing.
            lengths: valid steps of each sequence, (B,) of 0 to T; outputs beyond are 0, and the final state is the
                one after each sequence's last valid step.

        Returns:
            y (T, B, H) or (B, T, H), and the final state.
        """
        x = x.transpose(0, 1) if self.batch_first else x
        check_window(x, state or (), lengths, self.input_size, self.hidden_size, least=0)
        valid = None if lengths is None else moved(within(lengths, x.shape[0], x.shape[1]), x.device)
        order = turned(valid, x.shape[0]) if self.reverse else None
        u = self.cell.project(x if order is None else x.gather(0, order.expand_as(x)))
        y, state = self._scan(u, self.initial_state(x.shape[1]) if state is None else state, valid)
        y = y if order is None else y.gather(0, order.expand_as(y))
        return (y.transpose(0, 1) if self.batch_first else y), state

    def _scan(self, u: Tensor, state: CellState, valid: Tensor | None) -> tuple[Tensor, CellState]:
        if not isinstance(self.cell, StagedCell):
            return scan_naively(self.cell.step, u, state, valid)
        stages = self.cell.stages(u.shape[1])
        if self.naive:
            return scan_naively(lambda u_t, before: step(stages, u_t, before), u, state, valid)
        if self.captured and self.training and valid is None and not is_exporting():
            return self._loops.scan(stages, u, state)
        return scan(stages, u, state, valid)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Those of the cell, which answers for itself where modules are walked."""
        return {}

    def outputs(self) -> tuple[Slice, ...]:
        """Those of the cell, and the learnt initial state."""
        return self.cell.outputs() + self._starts()

    def silence(self) -> tuple[Slice, ...]:
        """Those of the cell, and the learnt initial state."""
        weights = self.cell.silence()
        return weights and weights + self._starts()

    def removable(self, dead: Tensor) -> Tensor:
        """As the cell has it."""
        return self.cell.removable(dead)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """As the cell has it."""
        return self.cell.resized(spec)

    def _starts(self) -> tuple[Slice, ...]:
        return tuple(Slice(self.start, str(k), 0, in_norm=False) for k in range(len(self.start)))

    def inputs(self) -> tuple[Slice, ...]:
        """Those of the cell."""
        return self.cell.inputs()

    def penalty(self) -> Tensor | float:
        """That of the cell."""
        return self.cell.penalty()


class Bidirectional(Layer):
    """Two layers over the same sequence, one from each end; y has the features of both side by side.

    Args:
        ahead: reads from the beginning.
        back: reads from the end and puts out in the order of x, as `Recurrent(cell, reverse=True)` does.

    The state is the pair of the two layers' states.

    Example:
        >>> from sparsernn.nn.cells.rhn import RHNCell
        >>> ahead, back = Recurrent(RHNCell(3, 5)), Recurrent(RHNCell(3, 4), reverse=True)
        >>> Bidirectional(ahead, back)(torch.zeros(7, 2, 3))[0].shape
        torch.Size([7, 2, 9])
    """

    def __init__(self, ahead: Layer, back: Layer) -> None:
        super().__init__()
        if ahead.input_size != back.input_size:
            raise InputError(
                f"the two directions read {ahead.input_size} and {back.input_size} features; they must read the same."
            )
        self.ahead, self.back = ahead, back

    @property
    def input_size(self) -> int:
        """I."""
        return self.ahead.input_size

    @property
    def hidden_size(self) -> int:
        """The widths of both directions together."""
        return self.ahead.hidden_size + self.back.hidden_size

    def initial_state(self, batch: int) -> State:
        """Of both directions."""
        return self.ahead.initial_state(batch), self.back.initial_state(batch)

    def forward(
        self, x: Tensor, state: tuple[State, State] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        """x (T, B, I) -> y (T, B, H of both), the pair of final states; see `Recurrent.forward`."""
        before = state if state is not None else (None, None)
        extra = {} if lengths is None else {"lengths": lengths}
        forth, after = self.ahead(x, before[0], **extra)
        back, first = self.back(x, before[1], **extra)
        return torch.cat([forth, back], -1), (after, first)

    def outputs(self) -> tuple[Slice, ...]:
        """What the units of `ahead` own, and after them those of `back`."""
        return self._both(self.ahead.outputs(), self.back.outputs())

    def silence(self) -> tuple[Slice, ...]:
        """Of both directions, where both know."""
        ahead, back = self.ahead.silence(), self.back.silence()
        return self._both(ahead, back) if ahead and back else ()

    def removable(self, dead: Tensor) -> Tensor:
        """As each direction has it."""
        return torch.cat([self.ahead.removable(dead[: self._edge]), self.back.removable(dead[self._edge :])])

    @property
    def _edge(self) -> int:
        return self.ahead.hidden_size

    def _both(self, ahead: tuple[Slice, ...], back: tuple[Slice, ...]) -> tuple[Slice, ...]:
        """The slices of both, each for its own part of the units."""
        parts = ((ahead, 0, self.ahead.hidden_size), (back, self._edge, self.back.hidden_size))
        return tuple(_moved(s, first, width) for slices, first, width in parts for s in slices)

    def inputs(self) -> tuple[Slice, ...]:
        """Both directions read feature k."""
        return self.ahead.inputs() + self.back.inputs()

    def penalty(self) -> Tensor | float:
        """Of both directions."""
        return self.ahead.penalty() + self.back.penalty()


def _moved(s: Slice, first: int, width: int) -> Slice:
    """The slice of a layer of `width` units that are numbered from `first` on."""
    units = s.covered(width)
    return replace(s, span=range(first + units.start, first + units.stop))


def within(lengths: Tensor, steps: int, batch: int) -> Tensor:
    """bool (T, B, 1): which steps lie inside their sequence.

    Raises:
        InputError: not one length per sequence, or one outside 0 to T.

    Example:
        >>> within(torch.tensor([2, 1]), 2, 2)[..., 0].tolist()
        [[True, True], [True, False]]
    """
    if lengths.shape != (batch,):
        raise InputError(
            f"lengths has the shape {tuple(lengths.shape)}; it must be one number for each of {batch} sequences."
        )
    if batch and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise InputError(
            f"lengths go from {int(lengths.min())} to {int(lengths.max())}; they must lie in 0 to {steps}."
        )
    return (torch.arange(steps).unsqueeze(1) < lengths.cpu()).unsqueeze(-1)


def turned(valid: Tensor | None, steps: int) -> Tensor:
    """Where step t of the reversed sequences stands in the given ones, int64 (T, B, 1) or (T, 1, 1).

    The steps beyond a sequence's end stay where they are; the order is its own inverse.

    Example:
        >>> turned(within(torch.tensor([3, 2]), 3, 2), 3)[..., 0].tolist()
        [[2, 1], [1, 0], [0, 2]]
    """
    t = torch.arange(steps, device=None if valid is None else valid.device).view(-1, 1, 1)
    if valid is None:
        return t.flip(0)
    return torch.where(valid, valid.sum(0, keepdim=True) - 1 - t, t)
