"""Torch's recurrent modules with a width of its own for every layer and direction.

What `compact` leaves of an `nn.LSTM`, `nn.GRU` or `nn.RNN` is rarely equally wide everywhere, and torch's modules
have one `hidden_size` for all. This one has as many as it needs, under the names that the weights have there.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Entries, OneOf, Share, Size
from sparsernn.core.states import State
from sparsernn.structure.gates import TORCH_GATES, GateBlock, stacked

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lstm": torch.lstm,
    "gru": torch.gru,
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
}
"""Torch's fused kernels by kind: `mode` of torch's modules in small letters."""

GATES: dict[str, tuple[str, ...]] = {"lstm": TORCH_GATES[nn.LSTM], "gru": TORCH_GATES[nn.GRU]}
"""Names of the stacked gates; the plain kinds have one block and no name for it."""

Cell = tuple[Tensor, ...]
"""The state of one layer and direction: (h, c) of an LSTM, (h,) of the others."""


class UnevenRNN(nn.Module):
    """`nn.LSTM`, `nn.GRU` or `nn.RNN` with layers, and directions, of different widths.

    Called as those are, and its numbers are theirs. Only the states differ in form: where torch has one tensor
    (layers * directions, B, H), here it is a tuple of tensors, (B, width) for each layer and direction in the same
    order (l0, l0 reverse, l1, ...), so that `h[-1]` means what it means there. An LSTM's state is a pair of such
    tuples, (h, c).

    Args:
        kind: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        input_size: I.
        hidden_sizes: a width for each layer, from the bottom, such as [200, 150]; or for layers that read in both
            directions a pair for each, such as [(100, 80), (60, 70)].
        bias: whether there are biases.
        batch_first: x and y are (B, T, .) instead of (T, B, .).
        dropout: probability in [0, 1] of dropping an output of any layer but the last, while training.

    Parameters: named as in torch, `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, with `_reverse` for the
    second direction; the first start U(-1/sqrt(width), 1/sqrt(width)) likewise.

    Raises:
        InputError: an impossible value.

    Example:
        >>> rnn = UnevenRNN("lstm", 3, [5, 4])
        >>> y, (h, c) = rnn(torch.zeros(7, 2, 3))
        >>> y.shape, [part.shape for part in h]
        (torch.Size([7, 2, 4]), [torch.Size([2, 5]), torch.Size([2, 4])])
        >>> y, (h, c) = rnn(torch.zeros(7, 2, 3), (h, c))   # carried on
    """

    @checked
    def __init__(
        self,
        kind: Annotated[str, OneOf(KERNELS)],
        input_size: Size,
        hidden_sizes: Annotated[Sequence[Size | Annotated[Sequence[Size], Entries(1, 2)]], Entries(1)],
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        layers = _widths(hidden_sizes)
        self.kind, self.num_layers, self.bidirectional = kind, len(layers), len(layers[0]) == 2
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        width = input_size
        for layer, widths in enumerate(layers):
            for end, hidden in zip(self.ends, widths, strict=True):
                self._add(f"l{layer}{end}", width, hidden)
            width = sum(widths)

    def _add(self, suffix: str, inputs: int, hidden: int) -> None:
        rows = len(GATES.get(self.kind, "h")) * hidden
        shapes = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, hidden),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        for name in self._names():
            parameter = nn.Parameter(torch.empty(shapes[name]))
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
            self.register_parameter(f"{name}_{suffix}", parameter)

    def _names(self) -> tuple[str, ...]:
        return ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name)
        return weight

    @property
    def ends(self) -> tuple[str, ...]:
        """What the names of each direction's weights end with."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def input_size(self) -> int:
        """I, read off the weights, as all sizes are: they stay true when units are removed."""
        return self._weight("weight_ih_l0").shape[1]

    @property
    def hidden_sizes(self) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        """As the argument: a width for each layer, or a pair for each."""
        widths = list(self._cell_widths())
        return tuple(zip(widths[::2], widths[1::2], strict=True)) if self.bidirectional else tuple(widths)

    @property
    def output_size(self) -> int:
        """The width of y: that of the last layer, both directions together."""
        return sum(list(self._cell_widths())[-len(self.ends) :])

    def _suffixes(self) -> Iterator[str]:
        return (f"l{layer}{end}" for layer in range(self.num_layers) for end in self.ends)

    def _cell_widths(self) -> Iterator[int]:
        return (self._weight(f"weight_hh_{suffix}").shape[1] for suffix in self._suffixes())

    def extra_repr(self) -> str:
        """The arguments that make such a module, defaults left out."""
        defaults = {"bias": True, "batch_first": False, "dropout": 0.0}
        others = [
            f"{name}={getattr(self, name)}" for name in defaults if getattr(self, name) != defaults[name]
        ]
        return ", ".join([f"'{self.kind}'", str(self.input_size), str(list(self.hidden_sizes)), *others])

    def flatten_parameters(self) -> None:
        """Nothing: there for code that calls it on torch's modules."""

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Parameter name -> gate borders along its rows; {} for the plain kinds."""
        names = GATES.get(self.kind, ())
        pairs = zip(self._suffixes(), self._cell_widths(), strict=True) if names else ()
        return {f"{name}_{s}": stacked(names, w) for s, w in pairs for name in ("weight_ih", "weight_hh")}

    def initial_state(self, batch: int) -> State:
        """Zeros for `batch` sequences, in the form of the final state."""
        like = self._weight("weight_hh_l0")
        zeros = [tuple(like.new_zeros(batch, w) for w in self._cell_widths()) for _ in range(self._parts)]
        return zeros[0] if self._parts == 1 else tuple(zeros)

    @property
    def _parts(self) -> int:
        """Tensors that a cell carries."""
        return 2 if self.kind == "lstm" else 1

    def forward(
        self, input: Tensor | PackedSequence, hx: State = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Read sequences.

        Args:
            input: (T, B, I), or (B, T, I) with `batch_first`; (T, I) for one sequence alone; or packed sequences.
            hx: the state to begin with, in the form of the final one; zeros when missing.

        Returns:
            y as torch has it: (T, B, output_size), or in the form of the input; and the final state: for each layer
            and direction h (B, width), (width,) for one sequence alone, and of an LSTM c likewise.

        Raises:
            InputError: another form.
        """
        if isinstance(input, PackedSequence):
            return self._read_packed(input, hx)
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            form = f"B, T, {self.input_size}" if self.batch_first else f"T, B, {self.input_size}"
            raise InputError(
                f"an input of shape {tuple(input.shape)} cannot be read; it must be ({form}), or "
                f"(T, {self.input_size}) for one sequence alone."
            )
        alone, swapped = input.ndim == 2, self.batch_first and input.ndim == 3
        x = input.unsqueeze(1) if alone else input.transpose(0, 1) if swapped else input
        y, cells = self._read(x, None, self._cells(hx, x.shape[1], x, alone))
        y = y.squeeze(1) if alone else y.transpose(0, 1) if swapped else y
        return y, self._state((part.squeeze(0) if alone else part for part in cell) for cell in cells)

    def _read_packed(self, packed: PackedSequence, hx: State) -> tuple[PackedSequence, State]:
        data, sizes, order, back = packed
        if data.shape[-1] != self.input_size:
            raise InputError(
                f"packed inputs of {data.shape[-1]} features cannot be read; there must be {self.input_size}."
            )
        cells = self._cells(hx, int(sizes[0]), data, alone=False)
        if order is not None:
            cells = [tuple(part.index_select(0, order) for part in cell) for cell in cells]
        y, cells = self._read(data, sizes, cells)
        if back is not None:
            cells = [tuple(part.index_select(0, back) for part in cell) for cell in cells]
        return PackedSequence(y, sizes, order, back), self._state(cells)

    def _read(self, x: Tensor, sizes: Tensor | None, cells: Sequence[Cell]) -> tuple[Tensor, list[Cell]]:
        """All layers over x (T, B, I), or over packed data (N, I) and their batch sizes."""
        order = None if sizes is None or not self.bidirectional else _turning(sizes).to(x.device)
        before, after = iter(cells), []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = functional.dropout(x, self.dropout, self.training)
            outputs = []
            for end in self.ends:
                y, cell = self._run(f"l{layer}{end}", _turn(x, order) if end else x, sizes, next(before))
                outputs.append(_turn(y, order) if end else y)
                after.append(cell)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        return x, after

    def _run(self, suffix: str, x: Tensor, sizes: Tensor | None, cell: Cell) -> tuple[Tensor, Cell]:
        """One layer in one direction, in one call."""
        weights = [self._weight(f"{name}_{suffix}") for name in self._names()]
        parts = tuple(part.unsqueeze(0) for part in cell)
        start = parts if self.kind == "lstm" else parts[0]
        settings = (weights, self.bias, 1, 0.0, self.training, False)
        kernel = KERNELS[self.kind]
        y, *last = kernel(x, start, *settings, False) if sizes is None else kernel(x, sizes, start, *settings)
        return y, tuple(part.squeeze(0) for part in last)

    def _state(self, cells: Iterable[Iterable[Tensor]]) -> State:
        """The cells' states in the form that callers see."""
        parts = tuple(zip(*cells, strict=True))
        return parts[0] if self._parts == 1 else parts

    def _cells(self, hx: Any, batch: int, like: Tensor, alone: bool) -> list[Cell]:
        """The state of each cell, (B, width) tensors, of what a caller gave; zeros for nothing."""
        widths = list(self._cell_widths())
        if hx is None:
            return [tuple(like.new_zeros(batch, w) for _ in range(self._parts)) for w in widths]
        parts = [list(part) for part in (hx if self._parts == 2 else (hx,))]
        shapes = [(w,) if alone else (batch, w) for w in widths]
        if len(parts) != self._parts or any([tuple(t.shape) for t in part] != shapes for part in parts):
            pair = "a pair (h, c), each " if self._parts == 2 else ""
            raise InputError(
                f"the state of {len(widths)} layers and directions must be {pair}a tuple of tensors of shapes "
                f"{', '.join(map(str, shapes))}; leave it out for zeros."
            )
        return [tuple(t.unsqueeze(0) if alone else t for t in cell) for cell in zip(*parts, strict=True)]


def _widths(hidden_sizes: Sequence[int | Sequence[int]]) -> list[tuple[int, ...]]:
    """The widths of each layer's directions."""
    layers = [tuple(w) if isinstance(w, Sequence) else (w,) for w in hidden_sizes]
    if len({len(layer) for layer in layers}) != 1:
        raise InputError(
            f"hidden_sizes is {hidden_sizes!r}; it must list a width for each layer, such as [200, 150], or a pair "
            "for each, such as [(100, 80), (60, 70)]."
        )
    return layers


def _turn(x: Tensor, order: Tensor | None) -> Tensor:
    """Every sequence from its end: x (T, B, F), or packed data (N, F) with `order` from `_turning`."""
    return x.flip(0) if order is None else x.index_select(0, order)


def _turning(sizes: Tensor) -> Tensor:
    """Where each row of packed data goes when every sequence is read from its end; its own inverse.

    >>> _turning(torch.tensor([2, 2, 1])).tolist()   # of a, b, a, b, a the a's and the b's trade places
    [4, 3, 2, 1, 0]
    """
    firsts = sizes.cumsum(0) - sizes
    time = torch.arange(len(sizes)).repeat_interleave(sizes)
    sequence = torch.arange(len(time)) - firsts[time]
    lengths = (sizes.unsqueeze(1) > torch.arange(int(sizes[0]))).sum(0)
    return firsts[lengths[sequence] - 1 - time] + sequence
