"""The Cell contract: one time step of a recurrent layer, which knows nothing of time.

A cell of one's own needs two methods, `project` (all that needs no state: one product for all time steps) and `step`
(the paper's equation). `sparsernn.nn.drive.recurrent.Recurrent` drives it over sequences. A `StagedCell` also says
what its step is made of, recurrent products with element-wise rules between them, and is then driven by the fast
loop of `sparsernn.nn.drive.scan`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.plain import Json
from sparsernn.nn.drive.sparse_weight import SparseWeight
from sparsernn.nn.drive.step_product import in_parts
from sparsernn.structure.gates import GateBlock
from sparsernn.structure.units import Slice

CellState = tuple[Tensor, ...]
"""Tensors (B, H); the first one is what is fed back and put out."""

Kept = tuple[Tensor, ...]
"""What a rule keeps of its forward pass for its backward pass."""


class Cell(nn.Module, ABC):
    """One step of a recurrence.

    Example:
        >>> import torch
        >>> from sparsernn.nn.drive.recurrent import Recurrent
        >>> class Leaky(Cell):
        ...     input_size = hidden_size = 3
        ...     def project(self, x):
        ...         return x
        ...     def step(self, u, state):
        ...         return (0.5 * state[0] + u,)
        >>> y, _ = Recurrent(Leaky())(torch.ones(2, 1, 3))
        >>> y[:, 0, 0].tolist()
        [1.0, 1.5]
    """

    gates: tuple[str, ...] = ()
    parts: ClassVar[int] = 1
    """How many tensors the state has."""

    if TYPE_CHECKING:  # attributes or properties, whichever a cell likes

        @property
        def input_size(self) -> int:
            """I."""

        @property
        def hidden_size(self) -> int:
            """H."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """x (T, B, I) -> what the steps read, (T, B, G): all that needs no state."""

    @abstractmethod
    def step(self, u: Tensor, state: CellState) -> CellState:
        """u (B, G), the state before -> the state after."""

    def outputs(self) -> tuple[Slice, ...]:
        """What hidden unit k owns, for `units`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which slices make up a unit")

    def inputs(self) -> tuple[Slice, ...]:
        """Where input feature k is read, for `units`."""
        raise NotImplementedError(f"{type(self).__name__} does not say where it reads its input")

    def silence(self) -> tuple[Slice, ...]:
        """See `Layer.silence`; a state of zeros before the first step may be assumed."""
        return ()

    def removable(self, dead: Tensor) -> Tensor:
        """See `Layer.removable`."""
        return dead

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """See `Layer.resized`."""
        return dict(spec)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Local parameter name -> gate borders along its rows."""
        return {}

    def penalty(self) -> Tensor | float:
        """A regulariser of the cell's own; 0 for most."""
        return 0.0


class Rule(ABC):
    """What happens element by element between two recurrent products, and how gradients come back through it.

    `equations` is the definition, as the paper has it; `forward` gives the same values and keeps what `backward`
    needs. A test holds the two together for every rule.
    """

    parameters: tuple[Tensor, ...] = ()
    """Learnt tensors of the rule itself."""

    window: ClassVar[str | None] = None
    """The name in `sparsernn.kernels.recurrence_kernel.KINDS` of a rule that reads only `pre` and its one bias.

    A subclass with other equations sets it to None.
    """

    whole: ClassVar[str | None] = None
    """The name of a rule by which windows run in one launch on a card: one of the KINDS of
    `sparsernn.kernels.window_triton`, or "ordered", that of the ordered-neurons LSTM.

    A subclass with other equations sets it to None.
    """

    @abstractmethod
    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """Pre-activation (B, G), state before -> state after; autograd can follow."""

    @abstractmethod
    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """The same without autograd: the new state, its first tensor written into `out` (B, H), and what to keep.

        `pre` may be overwritten.
        """

    @abstractmethod
    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Gradient of the new state -> the gradient of `pre`, written into `d_pre`, and those of the state before.

        Returns:
            The part of the fed-back tensor's gradient that does not go through the product (a new tensor, or None
            where there is none), and the gradients of the other tensors. `gradient` must not be changed.
        """

    def parameter_gradients(self, d_pre: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        """Gradients of `parameters` from d_pre (T, B, G) and the new states' first tensors (T, B, H)."""
        return ()


@dataclass(frozen=True)
class Stage:
    """One recurrent product of a step and the rule after it, fixed for a window.

    pre = (mask * state[0]) weight^T + (u_t in the first stage, else bias); state <- rule(pre, state)

    Attributes:
        weight: (G, H), after weight drop, or as a recurrent map gives it; with `sparse` it may be its values alone.
            Or (N, G, H): the rows of the state are N equal parts, each with a weight of its own.
        rule: what follows the product.
        bias: (G,) or None; the first stage has none of its own, u_t carries it, nor has one with parts.
        mask: (B, H) variational dropout of what is fed back, kept entries scaled; None for none.
        sparse: the weight where it exists, if the others are to be left out; None multiplies all of it.
        beside: columns at the end of u_t, and of pre, that the product adds nothing to.
    """

    weight: Tensor
    rule: Rule
    bias: Tensor | None = None
    mask: Tensor | None = None
    sparse: SparseWeight | None = None
    beside: int = 0

    @property
    def products(self) -> int:
        """G."""
        return self.weight.shape[-2] if self.sparse is None else self.sparse.layout.shape[0]

    @property
    def rows(self) -> int:
        """Columns of pre."""
        return self.products + self.beside

    def step(self, u: Tensor | None, state: CellState) -> CellState:
        """The stage under autograd; `u` is given to the first stage."""
        operand = state[0] if self.mask is None else state[0] * self.mask
        if self.weight.dim() > 2:
            pre = torch.bmm(in_parts(operand, len(self.weight)), self.weight.mT).flatten(0, 1)
        else:
            linear = functional.linear if self.sparse is None else self.sparse.linear
            pre = linear(operand, self.weight, self.bias)
        pre = functional.pad(pre, (0, self.beside)) if self.beside else pre
        return self.rule.equations(pre if u is None else u + pre, state)


class StagedCell(Cell):
    """A cell whose step is a chain of stages, so that the fast loop can drive it."""

    @abstractmethod
    def stages(self, batch: int) -> tuple[Stage, ...]:
        """The stages of a window for `batch` sequences; masks and dropped weights are drawn here, once."""

    def step(self, u: Tensor, state: CellState) -> CellState:
        """One step with fresh masks."""
        return step(self.stages(u.shape[0]), u, state)


def step(stages: Sequence[Stage], u: Tensor, state: CellState) -> CellState:
    """One time step through all stages, under autograd."""
    for number, stage in enumerate(stages):
        state = stage.step(None if number else u, state)
    return state
