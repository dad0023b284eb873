"""The recurrent highway network: many non-linear sub-steps within one time step."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Size
from sparsernn.kernels import recurrence_triton, triton_language
from sparsernn.kernels.rule_kernels import rule_kernels, same_kernels
from sparsernn.nn.drive.cell import CellState, Kept, Rule, Stage, StagedCell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice


class Opened(NamedTuple):
    """What `Highway` keeps for a kernel: pre (B, G), with the nonlinearities applied, and the state."""

    pre: Tensor
    s: Tensor


class FreelyOpened(NamedTuple):
    """The same of `FreeHighway`."""

    pre: Tensor
    s: Tensor


class Highway(Rule):
    """h = tanh, t = sigmoid of the two blocks of pre; s' = h * t + s * (1 - t)."""

    whole = "highway"

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        h, t = pre.chunk(2, -1)
        h, t = h.tanh(), t.sigmoid()
        return (h * t + state[0] * (1 - t),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`; keeps h, t and h - s, or `Opened`."""
        if kernels := rule_kernels(pre):
            s = state[0].contiguous()
            kernels.highway_forward(pre, s, out)
            return (out,), Opened(pre, s)
        h, t = pre.chunk(2, -1)
        h.tanh_()
        t.sigmoid_()
        step = h - state[0]
        torch.addcmul(state[0], step, t, out=out)
        return (out,), (h, t, step)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        (d,) = gradient
        if isinstance(kept, Opened):
            return same_kernels(kept.pre).highway_backward(d, kept.pre, kept.s, d_pre), ()
        h, t, step = kept
        d_h, d_t = d_pre.chunk(2, -1)
        into = d * t
        torch.ops.aten.tanh_backward.grad_input(into, h, grad_input=d_h)
        torch.ops.aten.sigmoid_backward.grad_input(step * d, t, grad_input=d_t)
        return d.sub(into), ()


class FreeHighway(Rule):
    """h, t as in `Highway` and a carry gate c = sigmoid of a third block; s' = h * t + s * c."""

    whole = "free_highway"

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        h, t, c = pre.chunk(3, -1)
        return (h.tanh() * t.sigmoid() + state[0] * c.sigmoid(),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        if pre.is_contiguous() and triton_language.takes(pre):
            s = state[0].contiguous()
            recurrence_triton.free_highway_forward(pre, s, out)
            return (out,), FreelyOpened(pre, s)
        h, t, c = pre.chunk(3, -1)
        h.tanh_()
        pre[:, h.shape[1] :].sigmoid_()
        torch.mul(h, t, out=out)
        out.addcmul_(state[0], c)
        return (out,), (h, t, c, state[0])

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        (d,) = gradient
        if isinstance(kept, FreelyOpened):
            return recurrence_triton.free_highway_backward(d, kept.pre, kept.s, d_pre), ()
        h, t, c, s = kept
        d_h, d_t, d_c = d_pre.chunk(3, -1)
        torch.ops.aten.tanh_backward.grad_input(d * t, h, grad_input=d_h)
        torch.ops.aten.sigmoid_backward.grad_input(d * h, t, grad_input=d_t)
        torch.ops.aten.sigmoid_backward.grad_input(d * s, c, grad_input=d_c)
        return d * c, ()


class RHNCell(SparseProducts, StagedCell):
    """One time step of a recurrent highway network: `depth` highway layers on one state.

        pre_1 = W x_t + b_W + R_1 (s * m) + b_1,   pre_l = R_l (s * m) + b_l
        h = tanh, t = sigmoid, c = 1 - t of each pre;   s <- h * t + s * c

    Args:
        input_size: I.
        hidden_size: H.
        depth: sub-steps L per time step, at least 1.
        coupled: carry gate c = 1 - t; otherwise it has weights of its own.
        state_dropout: probability in [0, 1) of the variational dropout m of the state where it enters the products,
            one mask (B, H) per window, the same at all times and depths; the carried s is not dropped.
        transform_bias: first value added to the transform gates' recurrent biases; negative ones make the network
            carry its state at first.
        product: "dense", "sparse" or "auto", as `sparsernn.nn.LSTM` has it.

    Parameters: `weight_ih` (G, I), `bias_ih` (G,), and for each depth l `weight_hh_l` (G, H), `bias_hh_l` (G,), with
    G = 2H (blocks h, t) or 3H (h, t, c); all U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Source: J. G. Zilly, R. K. Srivastava, J. Koutnik and J. Schmidhuber, "Recurrent Highway Networks", 2017,
    arXiv:1607.03474; initialisation and places of dropout as in S. Liu et al., "Selfish Sparse RNN Training", 2021,
    arXiv:2101.09048.
    Differs from the original: stacked layers have states of their own, and R reads H features whatever the input is.
    """

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        depth: Size = 10,
        coupled: bool = True,
        state_dropout: DropRate = 0.0,
        transform_bias: float = 0.0,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self.state_dropout, self.coupled, self.depth = state_dropout, coupled, depth
        self.gates = ("h", "t") if coupled else ("h", "t", "c")
        self.rule: Rule = Highway() if coupled else FreeHighway()
        rows = len(self.gates) * hidden_size
        self.weight_ih, self.bias_ih = linear_parameters(rows, input_size)
        for level in range(depth):
            weight, bias = linear_parameters(rows, hidden_size)
            bias.data[hidden_size : 2 * hidden_size] += transform_bias
            self.register_parameter(f"weight_hh_{level}", weight)
            self.register_parameter(f"bias_hh_{level}", bias)

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_hh_0")[1]

    def project(self, x: Tensor) -> Tensor:
        """W x_t + b_W + b_1 for all t."""
        return self.read_inputs(x, self.bias_ih + self.bias_hh_0)

    def stages(self, batch: int) -> tuple[Stage, ...]:
        """One per depth, all with the same mask."""
        mask = None
        if self.training and self.state_dropout:
            mask = functional.dropout(self.bias_ih.new_ones(batch, self.hidden_size), self.state_dropout)
        return tuple(self._stage(level, mask) for level in range(self.depth))

    def _stage(self, level: int, mask: Tensor | None) -> Stage:
        weight, sparse = self.recurrent_weight(f"weight_hh_{level}")
        return Stage(weight, self.rule, getattr(self, f"bias_hh_{level}") if level else None, mask, sparse)

    def _weights(self) -> list[str]:
        return ["weight_ih", *(f"weight_hh_{level}" for level in range(self.depth))]

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """All weights are stacked in the order of `gates`."""
        return dict.fromkeys(self._weights(), stacked(self.gates, self.hidden_size))

    def outputs(self) -> tuple[Slice, ...]:
        """A row in every gate of all weights and biases, and a column of every recurrent weight."""
        rows = tuple(block.start for block in stacked(self.gates, self.hidden_size))
        names = self._weights()
        matrices = tuple(Slice(self, name, 0, rows) for name in names)
        columns = tuple(Slice(self, name, 1) for name in names[1:])
        biases = [name.replace("weight", "bias") for name in names]
        return (*matrices, *columns, *(Slice(self, name, 0, rows, in_norm=False) for name in biases))

    def silence(self) -> tuple[Slice, ...]:
        """The rows of h of all depths with their biases: whatever the gates, a state of 0 stays 0."""
        names = self._weights()
        return tuple(Slice(self, name, 0) for name in (*names, *(n.replace("weight", "bias") for n in names)))

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weight."""
        return (Slice(self, "weight_ih", 1),)


def linear_parameters(rows: int, columns: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A weight and a bias, U(-1/sqrt(columns), 1/sqrt(columns)) as torch's nn.Linear has them."""
    bound = 1 / math.sqrt(columns)
    weight = torch.empty(rows, columns).uniform_(-bound, bound)
    return nn.Parameter(weight), nn.Parameter(torch.empty(rows).uniform_(-bound, bound))


class RHN(Recurrent):
    """A recurrent highway network layer: `RHNCell` over time; see there for the settings.

    Example:
        >>> y, (s,) = RHN(3, 5, depth=4)(torch.zeros(7, 2, 3))
        >>> y.shape
        torch.Size([7, 2, 5])
    """

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        depth: Size = 10,
        coupled: bool = True,
        state_dropout: DropRate = 0.0,
        transform_bias: float = 0.0,
        product: ProductName = "dense",
        batch_first: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        cell = RHNCell(
            input_size,
            hidden_size,
            depth=depth,
            coupled=coupled,
            state_dropout=state_dropout,
            transform_bias=transform_bias,
            product=product,
        )
        super().__init__(cell, batch_first=batch_first, learn_initial_state=learn_initial_state)
