"""The Layer contract, and layers put one after another.

Shape letters of the whole library: T time, B batch, I input size, H hidden size, G stacked gate rows
(gates x H), V vocabulary. Sequences are time-major (T, B, .) unless a layer is asked for `batch_first`.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sparsernn.core.plain import Json
from sparsernn.core.states import State
from sparsernn.nn.dropout import drop
from sparsernn.structure.gates import GateBlock
from sparsernn.structure.units import Slice, Units


class Layer(nn.Module, ABC):
    """How a sequence is read.

    `forward(x, state=None) -> (y, state)` with x (T, B, I) and y (T, B, H); a missing state means
    `initial_state(B)`. `gates` names the row blocks of the stacked weights, in their order.
    """

    gates: tuple[str, ...] = ()

    @property
    @abstractmethod
    def input_size(self) -> int:
        """I, read off the weights: it stays true when units are removed."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """H, read off the weights."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first step of `batch` sequences."""

    @abstractmethod
    def outputs(self) -> tuple[Slice, ...]:
        """What hidden unit k owns inside this layer."""

    @abstractmethod
    def inputs(self) -> tuple[Slice, ...]:
        """Where this layer reads its input feature k."""

    def silence(self) -> tuple[Slice, ...]:
        """The weights that, where they are 0, make unit k 0 at all times; () where there are none such."""
        return ()

    def removable(self, dead: Tensor) -> Tensor:
        """Which of the dead units, (H,) bool, can be removed together: all, but for layers in equal parts."""
        return dead

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """The layer's spec with the settings that another number of units has changed."""
        return dict(spec)

    def kept_state(self, state: State, inputs: Tensor, units: Tensor) -> State:
        """A state from before some input features and units were removed; bool (I,) and (H,), True for what stays."""
        return _kept(state, units)

    def as_units(self, name: str, readers: tuple[Slice, ...]) -> Units:
        """The layer's units; `readers` are the slices through which others read them."""
        return Units(name, self.hidden_size, self.outputs() + readers, self.silence(), self.removable)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Local parameter name -> gate borders along its rows."""
        return {}

    def penalty(self) -> Tensor | float:
        """A regulariser of the layer's own; 0 for most."""
        return 0.0


def _kept(state: State, units: Tensor) -> State:
    if isinstance(state, Tensor):
        return state[..., units].contiguous() if state.shape[-1:] == units.shape else state
    return None if state is None else tuple(_kept(part, units) for part in state)


class Stack(nn.ModuleList):
    """Layers in a row, with dropout between them (not before the first or after the last).

    Args:
        layers: each one reads what the one before it puts out.
        dropout: probability in [0, 1) of dropping a unit between two layers.
        locked: one dropout mask for all time steps (Gal and Ghahramani, 2016, arXiv:1512.05287) instead of a new
            one at each step.

    The state is the tuple of the layers' states.

    Example:
        >>> import torch
        >>> from sparsernn.nn.cells.lstm import LSTM
        >>> stack = Stack([LSTM(3, 5), LSTM(5, 4)])
        >>> y, state = stack(torch.zeros(7, 2, 3))
        >>> y.shape, len(state)
        (torch.Size([7, 2, 4]), 2)
    """

    def __init__(self, layers: Sequence[Layer], dropout: float = 0.0, locked: bool = False) -> None:
        super().__init__(layers)
        self.dropout, self.locked = dropout, locked

    @property
    def members(self) -> list[Layer]:
        """The layers, with their type."""
        return list(self)  # type: ignore[arg-type]

    def initial_state(self, batch: int) -> tuple[State, ...]:
        """The layers' initial states."""
        return tuple(layer.initial_state(batch) for layer in self.members)

    def forward(self, x: Tensor, state: tuple[State, ...] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """x (T, B, I) -> y (T, B, H of the last layer), states of all layers."""
        states = state if state is not None else self.initial_state(x.shape[1])
        after = []
        for number, (layer, before) in enumerate(zip(self, states, strict=True)):
            if number:
                x = drop(x, self.dropout, self.training, self.locked)
            x, now = layer(x, before)
            after.append(now)
        return x, tuple(after)

    def units(self) -> list[Units]:
        """Units of every layer but the last, whose readers lie outside the stack."""
        pairs = itertools.pairwise(self.members)
        return [layer.as_units(f"layer {k}", reader.inputs()) for k, (layer, reader) in enumerate(pairs)]
