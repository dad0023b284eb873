"""The tensors of a recurrent state, whatever its nesting, as one vector per sequence."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.states import State, rebuilt, tensors


class Recurrent(Protocol):
    """A model that carries a state."""

    def initial_state(self, batch: int) -> State:
        """The state before the first step of `batch` sequences."""


class Parts:
    """Which tensors of a model's state have a gradient that can be estimated, and where each keeps its sequences.

    Whole numbers, such as counters, and tensors without an axis for the sequences are left alone.

    Args:
        model: asked for states of two sizes.
        chosen: numbers of the tensors to take, counted from 0 in the order of the state; None takes all.

    Raises:
        InputError: the model carries no such state, or a number that no tensor has.

    Attributes:
        width: D, the numbers per sequence.

    Example:
        >>> class Model:
        ...     def initial_state(self, batch):
        ...         return (torch.zeros(batch, 3), (torch.zeros(1, batch, 2), torch.zeros(batch, dtype=torch.long)))
        >>> parts = Parts(Model())
        >>> parts.width, parts.join(parts.of(Model().initial_state(4))).shape
        (5, torch.Size([4, 5]))
    """

    def __init__(self, model: Recurrent, chosen: Sequence[int] | None = None) -> None:
        with torch.no_grad():
            two, three = (list(tensors(model.initial_state(batch))) for batch in (2, 3))
        axes = {k: _axis(a, b) for k, (a, b) in enumerate(zip(two, three, strict=True))}
        fitting = {k: axis for k, axis in axes.items() if axis is not None}
        if not fitting:
            raise InputError(
                f"a {type(model).__name__} carries no recurrent state; its boundary must be truncate."
            )
        wanted = list(fitting) if chosen is None else list(chosen)
        odd = [k for k in wanted if k not in fitting]
        if odd or not wanted:
            raise InputError(f"parts is {chosen!r}; it must be a list of some of {sorted(fitting)}.")
        self.axes = {k: fitting[k] for k in sorted(wanted)}
        self.shapes = [two[k].movedim(axis, 0)[0].shape for k, axis in self.axes.items()]
        self.widths = [shape.numel() for shape in self.shapes]
        self.width = sum(self.widths)

    def of(self, state: State) -> list[Tensor]:
        """The chosen tensors of a state, in their order."""
        return [tensor for k, tensor in enumerate(tensors(state)) if k in self.axes]

    def leaves(self, state: State) -> tuple[State, list[Tensor]]:
        """The state cut off, its chosen tensors as leaves that collect a gradient; and these."""
        cut = [tensor.detach() for tensor in tensors(state)]
        chosen = [tensor.requires_grad_() for k, tensor in enumerate(cut) if k in self.axes]
        return rebuilt(state, iter(cut)), chosen

    def join(self, chosen: Iterable[Tensor]) -> Tensor:
        """The chosen tensors -> (B, D), cut off from their graph."""
        pairs = zip(chosen, self.axes.values(), strict=True)
        return torch.cat([t.detach().movedim(axis, 0).flatten(1) for t, axis in pairs], 1)

    def split(self, joined: Tensor) -> list[Tensor]:
        """(B, D) -> tensors of the shapes of the state's."""
        pieces = zip(torch.split(joined, self.widths, 1), self.shapes, self.axes.values(), strict=True)
        return [piece.reshape(-1, *shape).movedim(0, axis) for piece, shape, axis in pieces]


def _axis(two: Tensor, three: Tensor) -> int | None:
    """The axis of the sequences, by which states of two and of three sequences differ."""
    if not two.is_floating_point():
        return None
    differing = [k for k, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
    return differing[0] if differing else None
