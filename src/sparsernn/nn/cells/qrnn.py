"""The quasi-recurrent layer: gates from a window of inputs, for all steps at once; a recurrence without weights."""

import math
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.devices import moved
from sparsernn.core.limits import DropRate, OneOf, Share, Size
from sparsernn.core.states import State, tensors
from sparsernn.nn.cells.forget_mult import forget_mult, linear_scan
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.recurrent import turned, within
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.dropout import drop_weight
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice

POOLINGS = {"f": ("z", "f"), "fo": ("z", "f", "o"), "ifo": ("z", "f", "o", "i")}
"""Pooling -> its gates, in the order in which their rows are stacked."""

QRNNState = tuple[Tensor, ...]


class QRNN(SparseProducts, Layer):
    """One quasi-recurrent layer.

        pre_t = W [x_t; x_(t-1); ...] + b,   z = tanh, f, o, i = sigmoid of its blocks
        f:    c_t = f z + (1 - f) c_(t-1),   h_t = c_t
        fo:   c_t = f z + (1 - f) c_(t-1),   h_t = o c_t
        ifo:  c_t = i z + f c_(t-1),         h_t = o c_t

    Mind the name: in "f" and "fo" f is the gate that WRITES, as in the published codes; in "ifo" i writes and f
    keeps, as in the paper, whose f keeps everywhere.

    Args:
        input_size: I.
        hidden_size: H.
        window: how many inputs a gate reads, the current one and those before it; at least 1.
        pooling: "f", "fo" or "ifo".
        zoneout: probability in [0, 1] that a unit keeps its old value, drawn for every step, sequence and unit in
            training; in evaluation the gates are multiplied by the expectation.
        weight_drop: probability in [0, 1) of dropping each weight (of all gates, not the biases), one sample per
            forward pass.
        batch_first: x and y are (B, T, .) instead of (T, B, .).
        reverse: read the sequence from its end; y is in the order of x.
        product: "dense", "sparse" or "auto", as `sparsernn.nn.LSTM` has it.

    The state is (c, x_T, x_(T-1), ...): c (B, H) before the output gate, and the last window - 1 inputs, each (B, I),
    the latest first. Nothing is hidden in the layer, and gradients flow through all parts.

    Parameters: `weight_ih` (G, window I), the current input's columns first, and `bias_ih` (G,); gates stacked in the
    order z, f, o, i as far as there; all initialised U(-1/sqrt(window I), 1/sqrt(window I)).

    Raises:
        InputError: sizes, probabilities or names out of range.

    Example:
        >>> layer = QRNN(3, 5, window=2)
        >>> y, (c, last_input) = layer(torch.zeros(7, 2, 3))
        >>> y.shape, c.shape, last_input.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 5]), torch.Size([2, 3]))

    Source: J. Bradbury, S. Merity, C. Xiong and R. Socher, "Quasi-Recurrent Neural Networks", 2016, arXiv:1611.01576;
    zoneout of D. Krueger et al., 2016, arXiv:1606.01305, not rescaled.
    Differs from the original: f of "f" and "fo" as said above, which only mirrors the gate; the previous inputs are
    part of the state instead of being kept, cut off from their graph, inside the layer; with "ifo" zoneout closes i
    too, so that a unit keeps its value exactly.
    """

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        window: Size = 1,
        pooling: Annotated[str, OneOf(POOLINGS)] = "fo",
        zoneout: Share = 0.0,
        weight_drop: DropRate = 0.0,
        batch_first: bool = False,
        reverse: bool = False,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self.window, self.pooling, self.zoneout, self.weight_drop = window, pooling, zoneout, weight_drop
        self.batch_first, self.reverse, self.gates = batch_first, reverse, POOLINGS[pooling]
        rows, columns = len(self.gates) * hidden_size, window * input_size
        bound = 1 / math.sqrt(columns)
        self.weight_ih = nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1] // self.window

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_ih")[0] // len(self.gates)

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return f"{self.input_size}, {self.hidden_size}, window={self.window}, pooling={self.pooling}"

    def initial_state(self, batch: int) -> QRNNState:
        """Zeros: c (B, H) and window - 1 inputs (B, I)."""
        inputs = (self.bias_ih.new_zeros(batch, self.input_size) for _ in range(self.window - 1))
        return (self.bias_ih.new_zeros(batch, self.hidden_size), *inputs)

    def kept_state(self, state: State, inputs: Tensor, units: Tensor) -> QRNNState:
        """c has units, everything after it inputs."""
        c, *before = tensors(state)
        return (c[:, units].contiguous(), *(x[:, inputs].contiguous() for x in before))

    def forward(
        self, x: Tensor, state: QRNNState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, QRNNState]:
        """Read a window.

        Args:
            x: (T, B, I), or (B, T, I) with `batch_first`.
            state: (c, last inputs ...) as described above; zeros when missing.
            lengths: valid steps of each sequence, (B,) of 0 to T; outputs beyond are 0, and the final state is the
                one after each sequence's last valid step.

        Returns:
            y (T, B, H) or (B, T, H), and the final state.
        """
        x = x.transpose(0, 1) if self.batch_first else x
        c0, *inputs = state if state is not None else self.initial_state(x.shape[1])
        valid = None if lengths is None else moved(within(lengths, len(x), x.shape[1]), x.device)
        order = turned(valid, len(x)) if self.reverse else None
        x = x if order is None else x.gather(0, order.expand_as(x))
        seen = torch.cat([torch.stack(inputs[::-1]), x]) if inputs else x  # (window - 1 + T, B, I)
        y, c = self._pool(self._project(seen, len(x)), c0, valid)
        y = y if order is None else y.gather(0, order.expand_as(y))
        return (y.transpose(0, 1) if self.batch_first else y), (c, *self._last(seen, valid))

    def _project(self, seen: Tensor, steps: int) -> Tensor:
        """What the gates read, (T, B, G)."""
        first = self.window - 1
        shifted = [seen[first - back : first - back + steps] for back in range(self.window)]
        # One product: adding up one for each input would read and write the wide result again.
        x = torch.cat(shifted, -1) if first else seen
        if self.multiplies_sparsely(x):
            weight, scale = self.dropped("weight_ih", self.weight_drop)
            if (sparse := self.sparse_weight("weight_ih", weight, scale)) is not None:
                return sparse.linear(x, weight, self.bias_ih)
        weight = drop_weight(self.weight_ih, self.weight_drop, self.training)
        return functional.linear(x, weight, self.bias_ih)

    def _last(self, seen: Tensor, valid: Tensor | None) -> tuple[Tensor, ...]:
        """The last inputs, the latest first; copies, so that what is carried does not hold on to the window."""
        if valid is None:
            return tuple(seen[len(seen) - 1 - back].clone() for back in range(self.window - 1))
        ends = valid.sum(0) + self.window - 2  # (B, 1): where the last valid input stands
        return tuple(
            seen.gather(0, (ends - back).unsqueeze(0).expand(1, *seen.shape[1:])).squeeze(0)
            for back in range(self.window - 1)
        )

    def _pool(self, pre: Tensor, c0: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gates, the recurrence and the output gate: y (T, B, H), and the last c."""
        z, f, *others = pre.chunk(len(self.gates), -1)
        write = self._writable(f, valid)
        c = self._recur(z.tanh(), f.sigmoid(), others[1].sigmoid() if others[1:] else None, write, c0)
        y = others[0].sigmoid() * c if others else c
        return (y if valid is None else y * valid), c[-1].clone() if len(c) else c0

    def _recur(self, z: Tensor, f: Tensor, i: Tensor | None, write: Tensor | float, c0: Tensor) -> Tensor:
        whole = isinstance(write, float) and write == 1.0
        if i is None:
            return forget_mult(f if whole else f * write, z, c0)
        return linear_scan(f, i * z, c0) if whole else linear_scan(1 - (1 - f) * write, i * write * z, c0)

    def _writable(self, like: Tensor, valid: Tensor | None) -> Tensor | float:
        """The factor on the gate that writes: zoneout, and nothing beyond a sequence's end."""
        write: Tensor | float = 1.0 - self.zoneout
        if self.training and self.zoneout:
            write = torch.empty_like(like, memory_format=torch.contiguous_format).bernoulli_(
                1.0 - self.zoneout
            )
        return write if valid is None else write * valid

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """The weight is stacked in the order of `gates`."""
        return {"weight_ih": stacked(self.gates, self.hidden_size)}

    def outputs(self) -> tuple[Slice, ...]:
        """A row in every gate of the weight and the bias."""
        rows = tuple(block.start for block in stacked(self.gates, self.hidden_size))
        return (Slice(self, "weight_ih", 0, rows), Slice(self, "bias_ih", 0, rows, in_norm=False))

    def silence(self) -> tuple[Slice, ...]:
        """The rows of z with their biases: nothing is ever written."""
        return (Slice(self, "weight_ih", 0), Slice(self, "bias_ih", 0))

    def inputs(self) -> tuple[Slice, ...]:
        """A column of the weight for each input that a gate reads."""
        return (Slice(self, "weight_ih", 1, tuple(k * self.input_size for k in range(self.window))),)
