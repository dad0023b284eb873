"""An LSTM layer made of small LSTMs side by side, each reading a window of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Density, DropRate, Entries, Size
from sparsernn.core.plain import Json
from sparsernn.core.precision import exactly
from sparsernn.kernels.lstm_kernel import Part
from sparsernn.nn.blocks import batched_lstm, parallel_lstm
from sparsernn.nn.blocks.geometry import arrangement, is_arranged
from sparsernn.nn.cells.lstm import LSTMState
from sparsernn.nn.drive.captured_loop import CapturedLoops
from sparsernn.nn.drive.flat_weights import FlatWeights
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.ragged_batch import Ragged, returns
from sparsernn.nn.window_shapes import check_window
from sparsernn.structure.gates import GateBlock, stacked
from sparsernn.structure.units import Slice

Outcome = tuple[Tensor, Tensor, Tensor]
Kernel = Callable[[Tensor, Tensor, Tensor, list[Tensor]], Outcome]


class BlockLSTM(Layer):
    """One LSTM layer made of k dense LSTMs that know nothing of each other.

    It is the dense LSTM I -> H whose recurrent weights are k blocks on the diagonal of every gate, and whose input
    weights are a band around it: component n owns the n-th of k slices of the hidden units and reads a window of
    density x I neighbouring inputs; windows slide from the left edge to the right one. The absent weights are never
    there: no masks, no zeros.

    Args:
        input_size: I.
        hidden_size: H, per direction.
        blocks: k, from 1 to the smaller of I and H. Without any of `blocks`, `density`, `reduce`: 2. Or a list that
            says all: [units, first input, input after the last] for each component, units of each direction.
        density: part of the inputs that a component reads, in [1 / k, 1]. Without any of the three: 0.75; with
            `blocks` alone: 1.
        reduce: instead of these two: (a, b) in (0, 1], the layer gets as many parameters as a dense LSTM with a I
            inputs and b H units, and k and density follow (`block_geometry.reduced_blocks`).
        weight_drop: probability in [0, 1) of dropping each recurrent weight, one sample per forward pass.
        bidirectional: a second set of components reads the sequence backwards; y is [forward | backward],
            (T, B, 2H), the state is (h, c), each (2, B, H), and `hidden_size` says 2H.
        batch_first: x and y are (B, T, .) instead of (T, B, .).

    Parameters, for every component n: `weight_ih_n` (4h, i), `weight_hh_n` (4h, h), `bias_ih_n` and `bias_hh_n`
    (4h,), h its hidden units and i its window; gates stacked in the order i, f, g, o; all initialised
    U(-1/sqrt(h), 1/sqrt(h)). Those that read backwards have the suffix `_reverse`.

    Hidden units can be removed (`units.remove`); with two directions, the same number from both directions of a
    component. A component without units is left out.

    Raises:
        InputError: sizes, fractions or probabilities out of range, or settings of both kinds.

    Example:
        >>> layer = BlockLSTM(40, 60, reduce=(0.5, 0.5))
        >>> layer
        BlockLSTM(40 -> 60, 5 components of 12 hidden units, windows 0:12 7:19 14:26 21:33 28:40)
        >>> y, (h, c) = layer(torch.zeros(7, 2, 40))
        >>> y.shape, h.shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([7, 2, 60]), torch.Size([2, 60]), 6240)

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: exact borders (see `block_geometry`); a missing state is zeros; two directions put out
    [all forward | all backward] instead of alternating by component, and weight drop meets both.
    """

    gates = ("i", "f", "g", "o")
    naive = (
        False  # whether a card takes one component after the other in any case, as who watches weights asks
    )
    captured = False  # whether it captures the loop of all at once, where it takes that; see `Recurrent`

    @checked
    def __init__(
        self,
        input_size: Size,
        hidden_size: Size,
        *,
        blocks: Size | Sequence[Json] | None = None,
        density: Density | None = None,
        reduce: Annotated[Sequence[Density], Entries(2, 2)] | None = None,
        weight_drop: DropRate = 0.0,
        bidirectional: bool = False,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.weight_drop, self.batch_first, self.bidirectional = weight_drop, batch_first, bidirectional
        self.asked = blocks, density, reduce
        places, widths = arrangement(input_size, hidden_size, *self.asked)
        self.windows = list(places)
        self._flat, self._loops = [FlatWeights("lstm") for _ in self.windows], CapturedLoops()
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        for n, (window, width) in enumerate(zip(places, widths, strict=True)):
            for suffix in self.suffixes:
                self._add_component(f"_{n}{suffix}", len(window), width)

    def _add_component(self, suffix: str, inputs: int, hidden: int) -> None:
        rows, bound = len(self.gates) * hidden, 1 / math.sqrt(max(hidden, 1))
        for name, shape in zip(WEIGHTS, ((rows, inputs), (rows, hidden), (rows,), (rows,)), strict=True):
            weight = torch.empty(shape).uniform_(-bound, bound)
            self.register_parameter(name + suffix, nn.Parameter(weight))

    def weights(self, n: int, suffix: str = "") -> list[Tensor]:
        """The four parameters of component n, in the order of `WEIGHTS`; suffix "_reverse" for backwards."""
        return [getattr(self, f"{name}_{n}{suffix}") for name in WEIGHTS]

    @property
    def input_size(self) -> int:
        """I."""
        return self.windows[-1].stop

    @property
    def hidden_size(self) -> int:
        """Features of y: H, or 2H with two directions."""
        return sum(len(span) for suffix in self.suffixes for span in self.hidden_spans(suffix))

    def hidden_spans(self, suffix: str = "") -> list[range]:
        """Each component's slice of one direction's hidden units."""
        widths = [getattr(self, f"weight_hh_{n}{suffix}").shape[1] for n in range(len(self.windows))]
        return [range(a, b) for a, b in pairwise(accumulate(widths, initial=0))]

    @property
    def density(self) -> float:
        """Part of the parameters of the dense LSTM of the same sizes that is there."""
        inputs, hidden = self.input_size, self.hidden_size // len(self.suffixes)
        dense = len(self.suffixes) * len(self.gates) * (inputs * hidden + hidden**2 + 2 * hidden)
        return sum(p.numel() for p in self.parameters()) / dense

    def extra_repr(self) -> str:
        """Sizes, components and windows."""
        widths = "/".join(dict.fromkeys(str(len(span)) for span in self.hidden_spans()))
        shown = " ".join(f"{w.start}:{w.stop}" for w in self.windows)
        return (
            f"{self.input_size} -> {self.hidden_size}, {len(self.windows)} components of {widths} hidden units, "
            f"windows {shown}"
        )

    def initial_state(self, batch: int) -> LSTMState:
        """Zeros: (h, c), each (B, H), or (2, B, H) with two directions."""
        shape = (batch, self.hidden_spans()[-1].stop)
        zeros = self.weights(0)[0].new_zeros((2, *shape) if self.bidirectional else shape)
        return zeros, zeros.clone()

    def forward(
        self, x: Tensor, state: LSTMState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        """Read a window.

        Args:
            x: (T, B, I), or (B, T, I) with `batch_first`.
            state: (h, c), each (B, H), or (2, B, H) with two directions; zeros when missing.
            lengths: valid steps of each sequence, (B,) on the CPU; outputs beyond are 0, and the final state is the
                one after each sequence's last valid step.

        Returns:
            y (T, B, H) or (B, T, H), 2H with two directions, and the final (h, c).
        """
        x = x.transpose(0, 1) if self.batch_first else x
        check_window(x, state or (), lengths, self.input_size, self.hidden_spans()[-1].stop)
        h, c = state if state is not None else self.initial_state(x.shape[1])
        if not self.bidirectional:
            h, c = h.unsqueeze(0), c.unsqueeze(0)
        elif self.hidden_spans() != self.hidden_spans("_reverse"):
            raise InputError(
                f"the components have {self.hidden_spans()} units forwards and {self.hidden_spans('_reverse')} "
                "backwards; remove equally many from both."
            )
        if (at_once := exactly(self._at_once, x, h, c, lengths)) is not None:
            y, h, c = at_once
        elif lengths is None:
            y, h, c = exactly(self._read, x, h, c)
        else:
            y, h, c = exactly(self._read_ragged, x, h, c, lengths)
        if not self.bidirectional:
            h, c = h.squeeze(0), c.squeeze(0)
        return (y.transpose(0, 1) if self.batch_first else y), (h, c)

    def _read(self, x: Tensor, h: Tensor, c: Tensor) -> Outcome:
        """Where the compiled kernel takes them, all components at once."""
        components = self._dropped()

        def kernel(x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Outcome:
            return torch.lstm(
                x, (h, c), weights, True, 1, 0.0, returns(self.training, x), self.bidirectional, False
            )

        done = parallel_lstm.read(self._parts(components), x, h, c)
        return done or self._one_by_one(kernel, components, x, h, c)

    def _at_once(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None) -> Outcome | None:
        """On a graphics card, where that is faster than one component after the other."""
        if not x.is_cuda or self.naive:
            return None
        parts, drop = self._parts(self._own()), self.weight_drop * self.training
        loops = self._loops if self.captured and self.training else None
        return batched_lstm.read_where_faster(parts, x, h, c, drop, lengths, loops)

    def _own(self) -> list[list[Tensor]]:
        return [[w for s in self.suffixes for w in self.weights(n, s)] for n in range(len(self.windows))]

    def _read_ragged(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor) -> Outcome:
        """All components share one packing of the sequences."""
        ragged = Ragged(x, lengths)

        def kernel(x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Outcome:
            return torch.lstm(
                x, ragged.sizes, (h, c), weights, True, 1, 0.0, returns(self.training, x), self.bidirectional
            )

        h, c = ragged.in_order(h), ragged.in_order(c)
        y, h, c = self._one_by_one(kernel, self._dropped(), ragged.data, h, c)
        return ragged.padded(y), ragged.as_given(h), ragged.as_given(c)

    def _one_by_one(
        self, kernel: Kernel, components: list[list[Tensor]], x: Tensor, h: Tensor, c: Tensor
    ) -> Outcome:
        """Every component on its own window and slice of the state; the outputs next to each other."""
        results = []
        for window, span, weights in zip(self.windows, self.hidden_spans(), components, strict=True):
            if span:
                read = x[..., window.start : window.stop]
                own = slice(span.start, span.stop)
                results.append(kernel(read, h[..., own], c[..., own], weights))
        y, h, c = (torch.cat(parts, -1) for parts in zip(*results, strict=True))
        return (self._by_direction([r[0] for r in results]) if self.bidirectional else y), h, c

    def _dropped(self) -> list[list[Tensor]]:
        """Weights of every component as a kernel takes them, both directions one after the other."""
        drop = self.weight_drop * self.training
        return [flat.gathered(own, drop) for flat, own in zip(self._flat, self._own(), strict=True)]

    def _parts(self, components: list[list[Tensor]]) -> list[Part]:
        """The components that have units, each direction for itself."""
        borders = pairwise(accumulate((weights[1].shape[1] for weights in components), initial=0))
        places = zip(self.windows, (range(a, b) for a, b in borders), components, strict=True)
        return [
            Part(window, span, backwards, *weights[4 * backwards : 4 * backwards + 4])
            for window, span, weights in places
            if span
            for backwards in range(len(self.suffixes))
        ]

    @staticmethod
    def _by_direction(ys: list[Tensor]) -> Tensor:
        forward, backward = zip(*(y.chunk(2, -1) for y in ys), strict=True)
        return torch.cat(forward + backward, -1)

    @torch.no_grad()
    def dense_weights(self) -> dict[str, Tensor]:
        """Weights of the dense LSTM of the same function: what a layer `LSTM` loads; `_reverse` where backwards."""
        return {name + suffix: self._dense(name, suffix) for suffix in self.suffixes for name in WEIGHTS}

    def _dense(self, name: str, suffix: str) -> Tensor:
        spans = self.hidden_spans(suffix)
        hidden, first = spans[-1].stop, self.weights(0, suffix)[0]
        columns = {"weight_ih": self.windows, "weight_hh": spans}.get(name)
        width = columns[-1].stop if columns else 1
        dense = first.new_zeros(len(self.gates), hidden, width)
        for n, span in enumerate(spans):
            column = columns[n] if columns else range(1)
            part = getattr(self, f"{name}_{n}{suffix}")
            shape = (len(self.gates), len(span), len(column))
            dense[:, span.start : span.stop, column.start : column.stop] = part.reshape(shape)
        return dense.view(-1, width) if columns else dense.view(-1)

    def to_dense(self) -> nn.LSTM:
        """torch's own LSTM of the same function, with zeros where no weights are; without weight drop."""
        inputs, hidden = self.input_size, self.hidden_spans()[-1].stop
        other = nn.LSTM(inputs, hidden, batch_first=self.batch_first, bidirectional=self.bidirectional)
        dense = {
            name.removesuffix("_reverse") + "_l0" + "_reverse" * name.endswith("_reverse"): weight
            for name, weight in self.dense_weights().items()
        }
        other.load_state_dict(dense)
        return other.to(self.weights(0)[0]).train(self.training)

    def gate_rows(self) -> dict[str, tuple[GateBlock, ...]]:
        """Both weights of every component are stacked in the order of `gates`."""
        return {
            f"{name}_{n}{suffix}": stacked(self.gates, len(units))
            for suffix, n, units in components(self)
            for name in WEIGHTS[:2]
        }

    def outputs(self) -> tuple[Slice, ...]:
        """A row in every gate of one component's weights and biases, and a column of its recurrent weight."""
        return outputs(self)

    def silence(self) -> tuple[Slice, ...]:
        """The rows of gate g of one component with their biases: nothing is ever written into the cell."""
        return silence(self)

    def inputs(self) -> tuple[Slice, ...]:
        """The columns of the input weights whose windows hold the feature."""
        return inputs(self)

    def removable(self, dead: Tensor) -> Tensor:
        """Not all units of a component, and with two directions equally many of both."""
        return removable(self, dead)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """With a list of the components, where the settings do not give them as they are now."""
        return resized(self, spec)


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def components(layer: BlockLSTM) -> Iterator[tuple[str, int, range]]:
    """Suffix, number and hidden units of every component, the units counted through all of them."""
    first = 0
    for suffix in layer.suffixes:
        for n, span in enumerate(layer.hidden_spans(suffix)):
            yield suffix, n, range(first, first + len(span))
            first += len(span)


def outputs(layer: BlockLSTM) -> tuple[Slice, ...]:
    """A row in every gate of one component's weights and biases, and a column of its recurrent weight."""
    slices = []
    for suffix, n, units in components(layer):
        rows = tuple(block.start for block in stacked(layer.gates, len(units)))
        for name in WEIGHTS:
            in_norm = name.startswith("weight")
            slices.append(Slice(layer, f"{name}_{n}{suffix}", 0, rows, in_norm=in_norm, span=units))
        slices.append(Slice(layer, f"weight_hh_{n}{suffix}", 1, span=units))
    return tuple(slices)


def silence(layer: BlockLSTM) -> tuple[Slice, ...]:
    """The rows of gate g of one component with their biases: nothing is ever written into the cell."""
    g = layer.gates.index("g")
    return tuple(
        Slice(layer, f"{name}_{n}{suffix}", 0, (g * len(units),), span=units)
        for suffix, n, units in components(layer)
        for name in WEIGHTS
    )


def inputs(layer: BlockLSTM) -> tuple[Slice, ...]:
    """The columns of the input weights whose windows hold the feature."""
    return tuple(
        Slice(
            layer,
            f"weight_ih_{n}{suffix}",
            1,
            span=layer.windows[n],
            removed=partial(_narrow, layer, n, suffix),
        )
        for suffix, n, _ in components(layer)
    )


def removable(layer: BlockLSTM, dead: Tensor) -> Tensor:
    """Of the dead units those that can go together: not all of a component, and equally many of both directions."""
    chosen = torch.zeros_like(dead)
    for n in range(len(layer.windows)):
        own = [slice(units.start, units.stop) for _, number, units in components(layer) if number == n]
        most = min(min(int(dead[part].sum()), part.stop - part.start - 1) for part in own)
        for part in own:
            chosen[part] = dead[part] & (dead[part].cumsum(0) <= most)
    return chosen


def resized(layer: BlockLSTM, spec: Mapping[str, Json]) -> dict[str, Json]:
    """The spec that gives the components as they are now: as it was, or else with a list of them."""
    widths = tuple(len(span) for span in layer.hidden_spans())
    if is_arranged((tuple(layer.windows), widths), layer.input_size, sum(widths), *layer.asked):
        return dict(spec)
    listed = [[n, window.start, window.stop] for n, window in zip(widths, layer.windows, strict=True)]
    others = {key: value for key, value in spec.items() if key not in ("density", "reduce")}
    return {**others, "blocks": listed}


def _narrow(layer: BlockLSTM, n: int, suffix: str, kept: Tensor) -> None:
    """Features were removed: the window keeps those of its own that stay."""
    if suffix == layer.suffixes[0]:
        window = layer.windows[n]
        before = int(kept[: window.start].sum())
        layer.windows[n] = range(before, before + int(kept[window.start : window.stop].sum()))
