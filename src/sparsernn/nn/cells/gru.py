"""The GRU on torch's fused kernel, or on products that leave out the weights that do not exist."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Size
from sparsernn.nn.cells.gru_gates import GRUGates
from sparsernn.nn.drive.cell import CellState, Stage
from sparsernn.nn.drive.flat_weights import FlatWeights
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.ragged_batch import returns
from sparsernn.nn.drive.scan import scan
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.window_shapes import check_window
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice

WEIGHTS, BIASES = ("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")


class GRU(SparseProducts, Layer):
    """One layer of gated recurrent units.

        r, z = sigmoid(W_ih x_t + b_ih + W_hh h + b_hh) per gate
        n = tanh(W_in x_t + b_in + r * (W_hn h + b_hn)),   h' = (1 - z) * n + z * h

    Args:
        input_size: I.
        hidden_size: H.
        weight_drop: probability in [0, 1) of dropping each recurrent weight, one sample per forward pass.
        product: "dense", torch's fused kernel; "sparse" or "auto", as `sparsernn.nn.LSTM` has it.

    Parameters: `weight_ih` (3H, I), `weight_hh` (3H, H), `bias_ih` and `bias_hh` (3H,); gates stacked in the order
    r, z, n; all initialised U(-1/sqrt(H), 1/sqrt(H)) as torch does.

    Example:
        >>> y, (h,) = GRU(3, 5)(torch.zeros(7, 2, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 5]))

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", 2014, arXiv:1406.1078.
    Differs from the original: the reset gate is applied after the recurrent product, as torch has it.
    """

    gates = ("r", "z", "n")

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        weight_drop: DropRate = 0.0,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self.weight_drop = weight_drop
        self._flat = FlatWeights("gru")
        rows = len(self.gates) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    @property
    def input_size(self) -> int:
        """I."""
        return self.shape_of("weight_ih")[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.shape_of("weight_hh")[1]

    def initial_state(self, batch: int) -> tuple[Tensor]:
        """Zeros: (h,) of (B, H)."""
        return (self.bias_hh.new_zeros(batch, self.hidden_size),)

    def forward(self, x: Tensor, state: tuple[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor]]:
        """x (T, B, I) -> y (T, B, H), and the final (h,); zeros where the state is missing."""
        check_window(x, state or (), None, self.input_size, self.hidden_size)
        (h,) = state if state is not None else self.initial_state(x.shape[1])
        if self.multiplies_sparsely(x):
            y, (last,) = self._read_by_products(x, h)
            return y, (last,)
        given = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        weights = self._flat.gathered(given, self.weight_drop if self.training else 0.0)
        y, last = torch.gru(x, h.unsqueeze(0), weights, True, 1, 0.0, returns(self.training, x), False, False)
        return y, (last.squeeze(0),)

    def _read_by_products(self, x: Tensor, h: Tensor) -> tuple[Tensor, CellState]:
        weight, (recurrent, scale) = self.held("weight_ih"), self.dropped("weight_hh", self.weight_drop)
        inputs = self.sparse_weight("weight_ih", weight)
        fed = self.sparse_weight("weight_hh", recurrent, scale)
        u = (functional.linear if inputs is None else inputs.linear)(x, weight, self.bias_ih)
        # The reset gate comes between the candidate's two parts: the recurrent one begins as a bias of its own.
        parts = [2 * self.hidden_size, self.hidden_size]
        of_gates, of_candidate = torch.split(u, parts, -1)
        gates, candidate = torch.split(self.bias_hh, parts)
        u = torch.cat([of_gates + gates, candidate.expand_as(of_candidate), of_candidate], -1)
        stage = Stage(recurrent, GRUGates(), sparse=fed, beside=self.hidden_size)
        return scan((stage,), u, (h,))

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Both weights are stacked in the order of `gates`."""
        return dict.fromkeys(WEIGHTS, stacked(self.gates, self.hidden_size))

    def outputs(self) -> tuple[Slice, ...]:
        """A row in every gate of both weights and both biases, and a recurrent column."""
        rows = tuple(block.start for block in stacked(self.gates, self.hidden_size))
        matrices = tuple(Slice(self, name, 0, rows) for name in WEIGHTS)
        biases = tuple(Slice(self, name, 0, rows, in_norm=False) for name in BIASES)
        return (*matrices, Slice(self, "weight_hh", 1), *biases)

    def silence(self) -> tuple[Slice, ...]:
        """The rows of the candidate n with their biases: the unit decays from 0 to 0."""
        rows = (self.gates.index("n") * self.hidden_size,)
        return tuple(Slice(self, name, 0, rows) for name in (*WEIGHTS, *BIASES))

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weight."""
        return (Slice(self, "weight_ih", 1),)
