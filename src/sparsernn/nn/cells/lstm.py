"""The LSTM on torch's fused kernel, fed with weights gathered in one place.

Because the kernel takes whatever tensors it is given, weight drop is one line and masked weights cost nothing; the
hooks that drop-connect needs on `nn.LSTM` are not needed.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.precision import exactly, rounding
from sparsernn.nn.cells.lstm_gates import LSTMGates
from sparsernn.nn.drive.cell import CellState, Stage
from sparsernn.nn.drive.flat_weights import FlatWeights
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.ragged_batch import Ragged, returns
from sparsernn.nn.drive.recurrent import within
from sparsernn.nn.drive.scan import scan
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.dropout import drop_weight
from sparsernn.nn.window_shapes import check_window
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice

LSTMState = tuple[Tensor, Tensor]
ROUNDED_FROM = 300
"""Width from which products rounded to 16 bits beat torch's fused kernel in float32 on a CPU: one layer, window 35,
batch 20, forward and back, one thread of an Intel Xeon with AMX: 12 ms against 17 at 200, 54 against 41 at 400."""


class LSTM(SparseProducts, Layer):
    """One LSTM layer.

        i, f, o = sigmoid(W_ih x_t + b_ih + W_hh h + b_hh) per gate, g = tanh(...) likewise
        c' = f * c + i * g,   h' = o * tanh(c')

    Args:
        input_size: I.
        hidden_size: H.
        weight_drop: probability in [0, 1) of dropping each recurrent weight, one sample per forward pass.
        batch_first: x and y are (B, T, .) instead of (T, B, .).
        init: "uniform", all U(-1/sqrt(H), 1/sqrt(H)) as torch does; "no_bias", the same with biases of 0; or
            "xavier": the weights of a gate, over [x, h] together, N(0, 2 / (I + 2H)), one bias
            U(-1/sqrt(I + H), 1/sqrt(I + H)) and the other fixed at 0.
        product: "dense", torch's fused kernel; "sparse": in training, weights that a sparsifier masks are
            multiplied, and their gradients taken, where they exist only, on the CPU and, for blocks of 16 x 1, by
            Triton on a CUDA device; "auto": as is faster here, measured once.

    Parameters: `weight_ih` (4H, I), `weight_hh` (4H, H), `bias_ih` and `bias_hh` (4H,); gates stacked in the order
    i, f, g, o.

    Example:
        >>> layer = LSTM(3, 5)
        >>> y, (h, c) = layer(torch.zeros(7, 2, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 5]))

    Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation, 1997; weight drop from
    S. Merity et al., "Regularizing and Optimizing LSTM Language Models", 2017, arXiv:1708.02182; "xavier" as in the
    baseline of G. Kerg et al., "Non-normal Recurrent Neural Network (nnRNN)", 2019, arXiv:1905.12080.
    """

    gates = ("i", "f", "g", "o")

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        weight_drop: DropRate = 0.0,
        batch_first: bool = False,
        init: Literal["uniform", "no_bias", "xavier"] = "uniform",
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self._flat = FlatWeights("lstm")
        self.weight_drop, self.batch_first = weight_drop, batch_first
        rows = len(self.gates) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        if init == "xavier":
            self._initialise_as_one_matrix()
            return
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        if init == "no_bias":
            nn.init.zeros_(self.bias_ih)
            nn.init.zeros_(self.bias_hh)

    def _initialise_as_one_matrix(self) -> None:
        """Each gate as if it read [x, h] through one linear layer with one bias."""
        fan_in = self.input_size + self.hidden_size
        for weight in (self.weight_ih, self.weight_hh):
            nn.init.normal_(weight, std=math.sqrt(2 / (fan_in + self.hidden_size)))
        nn.init.uniform_(self.bias_ih, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        nn.init.zeros_(self.bias_hh).requires_grad_(False)

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_hh")[1]

    def initial_state(self, batch: int) -> LSTMState:
        """Zeros: (h, c), each (B, H)."""
        zeros = self.bias_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros.clone()

    def forward(
        self, x: Tensor, state: LSTMState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        """Read a window.

        Args:
            x: (T, B, I), or (B, T, I) with `batch_first`.
            state: (h, c), each (B, H); zeros when missing.
            lengths: valid steps of each sequence, (B,) on the CPU; outputs beyond are 0, and the final state is the
                one after each sequence's last valid step.

        Returns:
            y (T, B, H) or (B, T, H), and the final (h, c).
        """
        x = x.transpose(0, 1) if self.batch_first else x
        check_window(x, state or (), lengths, self.input_size, self.hidden_size)
        h, c = state if state is not None else self.initial_state(x.shape[1])
        # Rounded on a CPU torch's kernel needs a processor with such arithmetic: wide layers take our loop, narrow
        # ones torch's kernel in float32.
        on_cpu = rounding(x.device) is not None and x.device.type == "cpu"
        if self.multiplies_sparsely(x) or (on_cpu and self.hidden_size >= ROUNDED_FROM):
            y, (h, c) = self._read_by_products(x, h, c, lengths)
            return (y.transpose(0, 1) if self.batch_first else y), (h, c)
        read = self._read if lengths is None else self._read_ragged
        h, c = h.unsqueeze(0), c.unsqueeze(0)
        y, h, c = exactly(read, x, h, c, lengths) if on_cpu else read(x, h, c, lengths)
        return (y.transpose(0, 1) if self.batch_first else y), (h.squeeze(0), c.squeeze(0))

    def _weights(self) -> list[Tensor]:
        weights = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        return self._flat.gathered(weights, self.weight_drop if self.training else 0.0)

    def _read_by_products(
        self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, CellState]:
        bias = self.bias_ih + self.bias_hh
        if self.multiplies_sparsely(x):
            weight, (recurrent, scale) = self.held("weight_ih"), self.dropped("weight_hh", self.weight_drop)
            inputs, fed = (
                self.sparse_weight("weight_ih", weight),
                self.sparse_weight("weight_hh", recurrent, scale),
            )
        else:
            weight, recurrent = (
                self.weight_ih,
                drop_weight(self.weight_hh, self.weight_drop, self.training),
            )
            inputs = fed = None
        u = (functional.linear if inputs is None else inputs.linear)(x, weight, bias)
        stage = Stage(recurrent, LSTMGates(), sparse=fed)
        valid = None if lengths is None else within(lengths, *x.shape[:2])
        return scan((stage,), u, (h, c), valid)

    def _read(self, x: Tensor, h: Tensor, c: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return torch.lstm(x, (h, c), self._weights(), True, 1, 0.0, returns(self.training, x), False, False)

    def _read_ragged(
        self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert lengths is not None
        ragged = Ragged(x, lengths)
        start = (ragged.in_order(h), ragged.in_order(c))
        y, h, c = torch.lstm(
            ragged.data, ragged.sizes, start, self._weights(), True, 1, 0.0, returns(self.training, x), False
        )
        return ragged.padded(y), ragged.as_given(h), ragged.as_given(c)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Both weights are stacked in the order of `gates`."""
        blocks = stacked(self.gates, self.hidden_size)
        return {"weight_ih": blocks, "weight_hh": blocks}

    def outputs(self) -> tuple[Slice, ...]:
        """A row in every gate of both weights and both biases, and a recurrent column."""
        rows = tuple(block.start for block in stacked(self.gates, self.hidden_size))
        matrices = tuple(Slice(self, name, 0, rows) for name in ("weight_ih", "weight_hh"))
        biases = tuple(Slice(self, name, 0, rows, in_norm=False) for name in ("bias_ih", "bias_hh"))
        return (*matrices, Slice(self, "weight_hh", 1), *biases)

    def silence(self) -> tuple[Slice, ...]:
        """The rows of gate g with their biases: nothing is ever written into the cell."""
        rows = (self.gates.index("g") * self.hidden_size,)
        return tuple(Slice(self, name, 0, rows) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weight."""
        return (Slice(self, "weight_ih", 1),)
