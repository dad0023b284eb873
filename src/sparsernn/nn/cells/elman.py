"""The Elman cell: one recurrent map, one nonlinearity."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Kind, OneOf, Size, Spec
from sparsernn.core.precision import exactly
from sparsernn.core.registry import make
from sparsernn.kernels import recurrence_triton, triton_language
from sparsernn.nn.drive.cell import CellState, Kept, Rule, Stage, StagedCell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.maps import MAPS, Dense
from sparsernn.structure.units import Slice


class Identity(Rule):
    """h' = pre."""

    window = whole = "none"

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        return (pre,)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        return (out.copy_(pre),), ()

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        d_pre.copy_(gradient[0])
        return None, ()


class Tanh(Rule):
    """h' = tanh(pre)."""

    window = whole = "tanh"

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        return (pre.tanh(),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        torch.tanh(pre, out=out)
        return (out,), (out,)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        torch.ops.aten.tanh_backward.grad_input(gradient[0], kept[0], grad_input=d_pre)
        return None, ()


class ReLU(Rule):
    """h' = max(pre, 0)."""

    window = whole = "relu"

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        return (pre.relu(),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        torch.clamp_min(pre, 0, out=out)
        return (out,), (out,)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        torch.ops.aten.threshold_backward.grad_input(gradient[0], kept[0], 0, grad_input=d_pre)
        return None, ()


class ModReLU(Rule):
    """h' = sign(pre) * max(|pre| + b, 0), with one b per unit and sign(0) = 0.

    Source: M. Arjovsky, A. Shah and Y. Bengio, "Unitary Evolution Recurrent Neural Networks", 2016,
    arXiv:1511.06464; the real form as in K. Helfrich, D. Willmott and Q. Ye, 2018, arXiv:1707.09520.
    """

    window = whole = "modrelu"

    def __init__(self, bias: Tensor) -> None:
        self.parameters = (bias,)

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        return (pre.sign() * (pre.abs() + self.parameters[0]).relu(),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`; keeps where the unit is on."""
        if pre.is_contiguous() and triton_language.takes(pre, *self.parameters):
            recurrence_triton.modrelu_forward(pre, self.parameters[0], out)
            return (out,), (pre,)
        size = pre.abs().add_(self.parameters[0]).clamp_min_(0)
        torch.mul(torch.sign(pre), size, out=out)
        return (out,), (size,)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        torch.ops.aten.threshold_backward.grad_input(gradient[0], kept[0], 0, grad_input=d_pre)
        return None, ()

    def parameter_gradients(self, d_pre: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        """Where a unit is on, its output has the sign of its pre-activation."""
        return ((outputs.sign() * d_pre).sum((0, 1)),)


INPUT_INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_normal_,
    "kaiming": nn.init.kaiming_normal_,
    "uniform": lambda weight: weight.uniform_(-(len(weight) ** -0.5), len(weight) ** -0.5),
    "small": lambda weight: weight.uniform_(-0.01, 0.01),
}
BIAS_INITS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "uniform": lambda bias, inputs: nn.init.uniform_(bias, -(inputs**-0.5), inputs**-0.5),
    "zero": lambda bias, _: nn.init.zeros_(bias),
}
NONLINEARITIES: dict[str, Callable[[], Rule]] = {"none": Identity, "tanh": Tanh, "relu": ReLU}
MODRELU_BOUND = 0.01
"""First values of the modReLU bias are U(-0.01, 0.01), as in the nnRNN code (G. Kerg et al., 2019)."""


NARROW = 32
"""Inputs below which the gradient of the input weight is taken the other way round. Measured for 2200 rows, 128 units
and 10 inputs on one thread of an AMD EPYC: 0.13 ms against 0.89; for 32 inputs 0.23 against 0.28, for 64 the same."""


class ElmanCell(SparseProducts, StagedCell):
    """h' = phi(U x + c + V h).

    Args:
        input_size: I.
        hidden_size: H.
        map: spec of the recurrent map that gives V (H, H): `dense`, or one of `sparsernn.nn.maps.MAPS`. It is
            computed once per window.
        nonlinearity: phi: "tanh", "relu", "modrelu" (with a learnt bias per unit) or "none".
        input_init: "xavier" (normal, 2 / (I + H)), "kaiming" (normal, 2 / I), "uniform" (1 / sqrt(H), as torch) or
            "small" (uniform, 0.01, as in the EURNN code).
        input_bias: whether there is a c.
        bias_init: first values of c: "uniform" (1 / sqrt(I), as in the nnRNN code) or "zero".
        product: "dense", "sparse" or "auto", as `sparsernn.nn.LSTM` has it; a V that is not the map "dense" is always
            multiplied whole.

    Parameters: `weight_ih` (H, I), `bias_ih` (H,) where asked for, `map`'s own, and `bias_modrelu` (H,).

    Source: J. L. Elman, "Finding Structure in Time", Cognitive Science, 1990; initialisations as in G. Kerg et al.,
    "Non-normal Recurrent Neural Network (nnRNN)", 2019, arXiv:1905.12080.
    """

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        map: Annotated[Spec, Kind("map")] = "dense",
        nonlinearity: Annotated[str, OneOf((*NONLINEARITIES, "modrelu"))] = "tanh",
        input_init: Annotated[str, OneOf(INPUT_INITS)] = "xavier",
        input_bias: bool = True,
        bias_init: Annotated[str, OneOf(BIAS_INITS)] = "uniform",
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self.nonlinearity = nonlinearity
        self.weight_ih = nn.Parameter(INPUT_INITS[input_init](torch.empty(hidden_size, input_size)))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size)) if input_bias else None
        self.map = make("map", MAPS, map, hidden_size=hidden_size)
        if nonlinearity == "modrelu":
            self.bias_modrelu = nn.Parameter(torch.empty(hidden_size).uniform_(-MODRELU_BOUND, MODRELU_BOUND))
        if self.bias_ih is not None:  # last, so that it leaves a seed the matrices that it draws without one
            BIAS_INITS[bias_init](self.bias_ih, input_size)

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_ih")[0]

    def project(self, x: Tensor) -> Tensor:
        """U x_t + c, for all t."""
        sparse = self.read_sparsely(x, self.bias_ih)
        if sparse is not None:
            return sparse
        if self.input_size < NARROW:
            return _narrow_linear(x, self.weight_ih, self.bias_ih)
        return functional.linear(x, self.weight_ih, self.bias_ih)

    def stages(self, batch: int) -> tuple[Stage, ...]:
        """One, with the map's matrix as it is now."""
        if self.reads_sparsely and isinstance(self.map, Dense):
            held = self.map.held("weight")
            if (sparse := self.sparse_weight("map.weight", held)) is not None:
                return (Stage(held, self._rule(), sparse=sparse),)
        return (Stage(exactly(self.map), self._rule()),)

    def _rule(self) -> Rule:
        if self.nonlinearity == "modrelu":
            return ModReLU(self.bias_modrelu)
        return NONLINEARITIES[self.nonlinearity]()

    def penalty(self) -> Tensor | float:
        """That of the map."""
        penalty: Tensor | float = self.map.penalty()
        return penalty

    def outputs(self) -> tuple[Slice, ...]:
        """A row of both weights and the biases, and a recurrent column.

        Raises:
            InputError: the map has a structure that does not stay when a unit goes.
        """
        if not isinstance(self.map, Dense):
            raise InputError(
                f"units of an Elman cell with a map of {type(self.map).__name__} cannot be told apart; "
                "only the map 'dense' has a row and a column for each."
            )
        biases = [name for name in ("bias_ih", "bias_modrelu") if getattr(self, name, None) is not None]
        rows = (Slice(self, "weight_ih", 0), Slice(self.map, "weight", 0))
        return (
            *rows,
            Slice(self.map, "weight", 1),
            *(Slice(self, name, 0, in_norm=False) for name in biases),
        )

    def silence(self) -> tuple[Slice, ...]:
        """A row of both weights and c: every nonlinearity takes 0 to 0."""
        bias = () if self.bias_ih is None else (Slice(self, "bias_ih", 0),)
        return (Slice(self, "weight_ih", 0), Slice(self.map, "weight", 0), *bias)

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weight."""
        return (Slice(self, "weight_ih", 1),)


def _narrow_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """functional.linear over (T, B, I), with the weight copied: its gradient is then x^T d and not (d^T x)."""
    rows, columns = x.flatten(0, 1), weight.t().contiguous()
    u = torch.mm(rows, columns) if bias is None else torch.addmm(bias, rows, columns)
    return u.view(*x.shape[:2], len(weight))


class Elman(Recurrent):
    """An Elman layer: `ElmanCell` over time; see there for the settings.

    Example:
        >>> y, (h,) = Elman(3, 5, nonlinearity="modrelu")(torch.zeros(7, 2, 3))
        >>> y.shape
        torch.Size([7, 2, 5])
    """

    cell: ElmanCell

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        map: Annotated[Spec, Kind("map")] = "dense",
        nonlinearity: Annotated[str, OneOf((*NONLINEARITIES, "modrelu"))] = "tanh",
        input_init: Annotated[str, OneOf(INPUT_INITS)] = "xavier",
        input_bias: bool = True,
        bias_init: Annotated[str, OneOf(BIAS_INITS)] = "uniform",
        product: ProductName = "dense",
        batch_first: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        cell = ElmanCell(
            input_size,
            hidden_size,
            map=map,
            nonlinearity=nonlinearity,
            input_init=input_init,
            input_bias=input_bias,
            bias_init=bias_init,
            product=product,
        )
        super().__init__(cell, batch_first=batch_first, learn_initial_state=learn_initial_state)
