"""The ordered-neurons LSTM, whose master gates order the units by how long they remember."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.kernels.rule_kernels import rule_kernels, same_kernels
from sparsernn.nn.cells.rhn import linear_parameters
from sparsernn.nn.drive.cell import CellState, Kept, Rule, Stage, StagedCell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.dropout import drop_numbers
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice

MASTERS = ("master_in", "master_forget")
GATES = ("out", "cell", "in", "forget")


def cumax(z: Tensor) -> Tensor:
    """cumsum(softmax(z)) along the last dimension: a soft step from 0 to 1.

    >>> cumax(torch.zeros(4)).tolist()
    [0.25, 0.5, 0.75, 1.0]
    """
    return z.softmax(-1).cumsum(-1)


class Opened(NamedTuple):
    """What the rule keeps for a kernel: pre with its nonlinearities applied, c before, and tanh of c after."""

    pre: Tensor
    before: Tensor
    tanh_c: Tensor


class OrderedMemory(Rule):
    """The gates of the ordered-neurons LSTM; see `ONLSTMCell` for the equations.

    Args:
        chunks: K, the number of chunks that share a master gate.
    """

    whole = "ordered"

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks

    def _split(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """pre (B, 2K + 4H) -> the masters (B, 2, K) and the gates (B, 4, K, C)."""
        masters, gates = torch.split(pre, [2 * self.chunks, pre.shape[1] - 2 * self.chunks], -1)
        return masters.view(-1, 2, self.chunks), gates.view(pre.shape[0], 4, self.chunks, -1)

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        masters, gates = self._split(pre)
        master_in, master_forget = 1 - cumax(masters[:, 0]), cumax(masters[:, 1])
        out, cell, into, forget = gates.unbind(1)
        i_, f_ = master_in.unsqueeze(-1), master_forget.unsqueeze(-1)
        overlap = f_ * i_
        keep = forget.sigmoid() * overlap + (f_ - overlap)
        write = into.sigmoid() * overlap + (i_ - overlap)
        c = keep * state[1].view_as(out) + write * cell.tanh()
        h = out.sigmoid() * c.tanh()
        return h.flatten(1), c.flatten(1)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        if kernels := rule_kernels(pre):
            before = state[1].contiguous()
            c, tanh_c = kernels.ordered_forward(pre, before, out, self.chunks)
            return (out, c), Opened(pre, before, tanh_c)
        masters, gates = self._split(pre)
        soft = masters.softmax(-1)
        steps = soft.cumsum(-1)
        i_ = steps[:, 0].neg_().add_(1).unsqueeze(-1)
        f_ = steps[:, 1].unsqueeze(-1)
        overlap = i_ * f_
        o, g, inner = gates[:, 0].sigmoid_(), gates[:, 1].tanh_(), gates[:, 2:].sigmoid_()
        # Both opened gates at once: gate * overlap + (master - overlap), in the order in, forget.
        rest = torch.stack((i_ - overlap, f_ - overlap), 1)
        opened = torch.addcmul(rest, inner, overlap.unsqueeze(1))
        before = state[1].view_as(o)
        c = torch.addcmul(opened[:, 0] * g, opened[:, 1], before)
        tanh_c = c.tanh()
        torch.mul(o, tanh_c, out=out.view_as(o))
        return (out, c.flatten(1)), (soft, i_, f_, overlap, o, g, inner, opened, before, tanh_c)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        if isinstance(kept, Opened):
            kernels = same_kernels(kept.pre)
            return None, (kernels.ordered_backward(gradient, *kept, d_pre, self.chunks),)
        soft, i_, f_, overlap, o, g, inner, opened, before, tanh_c = kept
        d_masters, d_gates = self._split(d_pre)
        d_h, d_c = gradient[0].view_as(o), gradient[1].view_as(o)
        torch.ops.aten.sigmoid_backward.grad_input(d_h * tanh_c, o, grad_input=d_gates[:, 0])
        d_c = d_c + torch.ops.aten.tanh_backward(d_h * o, tanh_c)
        torch.ops.aten.tanh_backward.grad_input(d_c * opened[:, 0], g, grad_input=d_gates[:, 1])
        d_opened = torch.stack((d_c * g, d_c * before), 1)
        torch.ops.aten.sigmoid_backward.grad_input(
            d_opened * overlap.unsqueeze(1), inner, grad_input=d_gates[:, 2:]
        )
        # opened = inner * overlap + (master - overlap): through the masters and through their overlap
        of_masters = d_opened.sum(-1)
        of_overlap = (d_opened * inner).sum(-1).sub_(of_masters).sum(1)
        i_, f_ = i_.squeeze(-1), f_.squeeze(-1)
        d_i = torch.addcmul(of_masters[:, 0], of_overlap, f_).neg_()
        d_f = torch.addcmul(of_masters[:, 1], of_overlap, i_)
        d_steps = torch.stack((d_i, d_f), 1)
        d_soft = d_steps.add(d_steps.sum(-1, keepdim=True)).sub_(d_steps.cumsum(-1))
        d_masters.copy_(torch.ops.aten._softmax_backward_data(d_soft, soft, -1, soft.dtype))
        return None, ((d_c * opened[:, 1]).flatten(1),)


class ONLSTMCell(SparseProducts, StagedCell):
    """One step of the ordered-neurons LSTM.

        i~ = 1 - cumax(z_master_in), f~ = cumax(z_master_forget), one value per chunk of C units
        w = f~ * i~;  F = f * w + (f~ - w);  I = i * w + (i~ - w)
        c' = F * c + I * g;  h' = o * tanh(c')

    with o, i, f = sigmoid and g = tanh of their blocks. Units of the last chunk keep their cell for ever (f~ = 1 and
    i~ = 0 there): from a zero state they stay 0, as in the published code.

    Args:
        input_size: I.
        hidden_size: H, divisible by `chunk_size`.
        chunk_size: C, the units that share a master gate.
        weight_drop: probability in [0, 1) of dropping each recurrent weight, one sample per window.
        rescale_drop: scale kept weights by 1 / (1 - weight_drop) in training; the published code instead multiplies
            them by 1 - weight_drop in evaluation, which is the default.
        product: "dense", "sparse" or "auto", as `sparsernn.nn.LSTM` has it.

    Parameters: `weight_ih` (2K + 4H, I), `weight_hh` (2K + 4H, H), `bias_ih`, `bias_hh`, with K = H / C; rows in the
    order master_in, master_forget (K each), out, cell, in, forget (H each); U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Source: Y. Shen, S. Tan, A. Sordoni and A. Courville, "Ordered Neurons: Integrating Tree Structures into Recurrent
    Neural Networks", 2019, arXiv:1810.09536.
    """

    gates = (*MASTERS, *GATES)
    parts = 2

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        chunk_size: Size = 10,
        weight_drop: DropRate = 0.0,
        rescale_drop: bool = False,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        if hidden_size % chunk_size:
            raise InputError(
                f"hidden_size is {hidden_size}; it must be a multiple of chunk_size, {chunk_size}."
            )
        self.weight_drop, self.rescale_drop = weight_drop, rescale_drop
        rows = 2 * (hidden_size // chunk_size) + 4 * hidden_size
        self.weight_ih, self.bias_ih = linear_parameters(rows, input_size)
        self.weight_hh, self.bias_hh = linear_parameters(rows, hidden_size)

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_hh")[1]

    @property
    def chunks(self) -> int:
        """K."""
        return (self.shape_of("weight_hh")[0] - 4 * self.hidden_size) // 2

    def project(self, x: Tensor) -> Tensor:
        """W_ih x_t and both biases, for all t."""
        return self.read_inputs(x, self.bias_ih + self.bias_hh)

    def stages(self, batch: int) -> tuple[Stage, ...]:
        """One, with weights dropped once for the window."""
        rule = OrderedMemory(self.chunks)
        if not self.reads_sparsely:
            return (Stage(self._recurrent_weight(), rule),)
        factor = 1.0 if self.rescale_drop else 1 - self.weight_drop
        weight, scale = self.dropped("weight_hh", self.weight_drop, factor)
        return (Stage(weight, rule, sparse=self.sparse_weight("weight_hh", weight, scale)),)

    def _recurrent_weight(self) -> Tensor:
        if not self.weight_drop:
            return self.weight_hh
        if self.training:
            dropped = drop_numbers(self.weight_hh, self.weight_drop)
            return dropped if self.rescale_drop else dropped * (1 - self.weight_drop)
        return self.weight_hh if self.rescale_drop else self.weight_hh * (1 - self.weight_drop)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """K rows for each master gate, then H for each gate."""
        edge, hidden = 2 * self.chunks, self.hidden_size
        inner = (GateBlock(b.name, b.start + edge, b.stop + edge) for b in stacked(GATES, hidden))
        blocks = (*stacked(MASTERS, self.chunks), *inner)
        return {"weight_ih": blocks, "weight_hh": blocks}

    def outputs(self) -> tuple[Slice, ...]:
        """A row in each of the four gates, and a recurrent column; master gates belong to no single unit."""
        rows = tuple(b.start for b in self.gate_rows()["weight_hh"][2:])
        matrices = tuple(Slice(self, name, 0, rows) for name in ("weight_ih", "weight_hh"))
        biases = tuple(Slice(self, name, 0, rows, in_norm=False) for name in ("bias_ih", "bias_hh"))
        return (*matrices, Slice(self, "weight_hh", 1), *biases)

    def silence(self) -> tuple[Slice, ...]:
        """The rows of the gate "cell" with their biases: nothing is ever written into the cell."""
        rows = (2 * self.chunks + GATES.index("cell") * self.hidden_size,)
        return tuple(Slice(self, name, 0, rows) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def removable(self, dead: Tensor) -> Tensor:
        """Equally many units of every chunk, and not all: a whole chunk has a part in the master gates' sums."""
        chunks = dead.view(self.chunks, -1)
        most = min(int(chunks.sum(1).min()), chunks.shape[1] - 1)
        return (chunks & (chunks.cumsum(1) <= most)).view(-1)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """With the size that the chunks have now."""
        return {**spec, "chunk_size": self.hidden_size // self.chunks}

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weight."""
        return (Slice(self, "weight_ih", 1),)


class ONLSTM(Recurrent):
    """An ordered-neurons LSTM layer: `ONLSTMCell` over time; see there for the settings. The state is (h, c).

    Example:
        >>> y, (h, c) = ONLSTM(3, 6, chunk_size=2)(torch.zeros(7, 2, 3))
        >>> y.shape
        torch.Size([7, 2, 6])
    """

    cell: ONLSTMCell

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        chunk_size: Size = 10,
        weight_drop: DropRate = 0.0,
        rescale_drop: bool = False,
        product: ProductName = "dense",
        batch_first: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        cell = ONLSTMCell(
            input_size,
            hidden_size,
            chunk_size=chunk_size,
            weight_drop=weight_drop,
            rescale_drop=rescale_drop,
            product=product,
        )
        super().__init__(cell, batch_first=batch_first, learn_initial_state=learn_initial_state)

    @torch.no_grad()
    def syntactic_distances(self, x: Tensor, state: CellState | None = None) -> tuple[Tensor, Tensor]:
        """How deep the tree is cut before each step, read off the master gates: high between phrases.

        Args:
            x: (T, B, I), or (B, T, I) with `batch_first`.
            state: before the first step.

        Returns:
            1 - mean over chunks of f~, and the mean of i~, each shaped like y without its features.
        """
        x = x.transpose(0, 1) if self.batch_first else x
        before = self.initial_state(x.shape[1]) if state is None else state
        y, _ = self._scan(self.cell.project(x), before, None)
        cell = self.cell
        rows = 2 * cell.chunks
        weight = cell._recurrent_weight()[:rows]
        inputs = functional.linear(x, cell.weight_ih[:rows], (cell.bias_ih + cell.bias_hh)[:rows])
        masters = inputs + functional.linear(torch.cat([before[0].unsqueeze(0), y[:-1]]), weight)
        z_in, z_forget = masters.chunk(2, -1)
        forget, into = 1 - cumax(z_forget).mean(-1), (1 - cumax(z_in)).mean(-1)
        return (forget.t(), into.t()) if self.batch_first else (forget, into)
