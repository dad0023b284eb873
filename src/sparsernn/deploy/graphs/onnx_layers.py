"""Each layer as ONNX has it: the operators LSTM, GRU and RNN where they say the same, else a Scan over the steps.

`LAYER_WRITERS`, `CELL_INPUTS` and `RULE_WRITERS` name what can be written, by type: a layer, cell or rule that is not
there is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json, Part
from sparsernn.deploy.graphs.onnx_graph import BOOL, END, FLOAT, Graph, writer_of
from sparsernn.deploy.graphs.onnx_rules import RULE_WRITERS
from sparsernn.deploy.graphs.onnx_steps import gru_step
from sparsernn.nn import GRU, LSTM, ONLSTM, QRNN, RHN, BlockLSTM, Elman
from sparsernn.nn.cells.elman import ElmanCell, Identity, ReLU, Tanh
from sparsernn.nn.cells.onlstm import ONLSTMCell
from sparsernn.nn.cells.rhn import RHNCell
from sparsernn.nn.drive.cell import Cell, Stage
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.recurrent import Recurrent

LSTM_ORDER, GRU_ORDER, RNN_ORDER = (0, 3, 1, 2), (1, 0, 2), (0,)
"""Which of our gates (i, f, g, o; r, z, n) stands where in ONNX's operators (i, o, f, g; z, r, n)."""
ACTIVATIONS: dict[type[Part], dict[str, Part]] = {
    Tanh: {"activations": ["Tanh"]},
    ReLU: {"activations": ["Relu"]},
    Identity: {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]},
}
"""Rule of an Elman cell -> how the operator RNN says it."""


@dataclass(frozen=True)
class Lengths:
    """How many steps of each sequence are read.

    Args:
        graph: the whole one.
        given: (B,) int64.
        like: (T, B, ...), whose first axis is time.
    """

    graph: Graph
    given: str
    like: str

    @cached_property
    def short(self) -> str:
        """The same as ONNX's operators take them, int32."""
        return self.graph.do("Cast", self.given, to=6)  # TensorProto.INT32

    @cached_property
    def valid(self) -> str:
        """bool (T, B, 1): which steps lie inside their sequence."""
        g = self.graph
        steps = g.do("Squeeze", g.sliced(g.do("Shape", self.like), 0, 1, 0))
        zero, one = (g.table(f"int_{k}_alone", torch.tensor(k)) for k in (0, 1))
        times = g.do("Unsqueeze", g.do("Range", zero, steps, one), g.numbers(1))
        return g.do("Unsqueeze", g.do("Less", times, self.given), g.numbers(-1))

    def turned(self, x: str) -> str:
        """Every sequence of x (T, B, ...) from its end; what lies beyond the end stays where it is."""
        return self.graph.do("ReverseSequence", x, self.given, time_axis=0, batch_axis=1)


Written = tuple[str, list[str]]
"""y (T, B, H), and the state after it as in the leaves of `Layer.initial_state`."""
Writer = Callable[[Graph, Part, str, Lengths, Sequence[str]], Written]


def write_layer(g: Graph, layer: Layer, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    """A layer over a whole window.

    Args:
        g: where it is written.
        layer: in evaluation mode.
        x: (T, B, I).
        lengths: of the sequences.
        state: the leaves of the state before the first step; [] where it is zeros and is not carried.

    Raises:
        InputError: a layer of another kind.
    """
    if getattr(layer, "batch_first", False):
        raise InputError("a layer with batch_first: true has no graph of whole sequences; leave that out.")
    write: Writer = writer_of(LAYER_WRITERS, layer)
    return write(g, layer, x, lengths, state)


def operator(
    g: Graph,
    op: str,
    x: str,
    lengths: Lengths,
    state: Sequence[str],
    weights: Sequence[Sequence[Tensor]],
    **more: Json,
) -> list[str]:
    """LSTM, GRU or RNN.

    Args:
        g: where it is written.
        op: which.
        x: (T, B, I).
        lengths: of the sequences.
        state: (D, B, H) each; [] for zeros.
        weights: of each of D directions: of the input, of the state, and both biases.
        more: attributes.

    Returns:
        y (T, D, B, H), and the state after it, (D, B, H) each.
    """
    order = {"LSTM": LSTM_ORDER, "GRU": GRU_ORDER, "RNN": RNN_ORDER}[op]
    w, r, *biases = (torch.stack([_ordered(d[k], order) for d in weights]) for k in range(4))
    tables = {"W": w, "R": r, "B": torch.cat(biases, 1)}
    others = (lengths.short, *state)
    return g.recurrence(op, x, tables, others, 3 if op == "LSTM" else 2, hidden_size=r.shape[-1], **more)


def _ordered(weight: Tensor, order: Sequence[int]) -> Tensor:
    blocks = weight.detach().chunk(len(order))
    return torch.cat([blocks[k] for k in order])


def _one_way(
    g: Graph,
    op: str,
    layer: Part,
    x: str,
    lengths: Lengths,
    state: Sequence[str],
    weights: Sequence[Tensor],
    **more: Json,
) -> Written:
    """An operator in one direction, of a state (B, H)."""
    axis = g.numbers(0)
    before = [g.do("Unsqueeze", s, axis) for s in state]
    y, *after = operator(g, op, x, lengths, before, [weights], **more)
    return g.do("Squeeze", y, g.numbers(1)), [g.do("Squeeze", s, axis) for s in after]


def _weights(layer: Part) -> list[Tensor]:
    return [layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh]


def _lstm(g: Graph, layer: LSTM, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    return _one_way(g, "LSTM", layer, x, lengths, state, _weights(layer))


def _gru(g: Graph, layer: GRU, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    if "GRU" in g.operators:
        return _one_way(g, "GRU", layer, x, lengths, state, _weights(layer), linear_before_reset=1)
    size, bias = layer.hidden_size, g.weight(layer.bias_hh)

    def step(body: Graph, before: list[str], now: list[str]) -> tuple[list[str], list[str]]:
        own = body.gemm(before[0], layer.weight_hh, [bias], "hidden.weight")
        after, _ = gru_step(body, size, before[0], now[0], own)
        after = body.do("Where", now[1], after, before[0])
        return [after], [after]

    u = g.linear(x, layer.weight_ih, layer.bias_ih, "input")
    after, (y,) = g.scan(state, [(u, FLOAT), (lengths.valid, BOOL)], step)
    return y, after


def _block_lstm(g: Graph, layer: BlockLSTM, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    """An operator for each component that has units, both directions in one."""
    both = layer.bidirectional
    before = state if both else [g.do("Unsqueeze", s, g.numbers(0)) for s in state]
    spans = layer.hidden_spans()
    parts = [g.split(s, [len(span) for span in spans]) for s in before]
    found = []
    for n, (window, span) in enumerate(zip(layer.windows, spans, strict=True)):
        if span:
            with g.scope(f"component_{n}"):
                read = g.sliced(x, window.start, window.stop, -1)
                weights = [layer.weights(n, suffix) for suffix in layer.suffixes]
                ways = {"direction": "bidirectional"} if both else {}
                found.append(operator(g, "LSTM", read, lengths, [p[n] for p in parts], weights, **ways))
    y, *after = (g.joined(list(same)) for same in zip(*found, strict=True))
    if not both:
        return g.do("Squeeze", y, g.numbers(1)), [g.do("Squeeze", s, g.numbers(0)) for s in after]
    return g.do("Reshape", g.do("Transpose", y, perm=[0, 2, 1, 3]), g.numbers(0, 0, -1)), after


def _recurrent(g: Graph, layer: Recurrent, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    """A cell of stages."""
    cell: Part = layer.cell
    weight, bias = writer_of(CELL_INPUTS, cell)(cell)
    stages: Sequence[Stage] = cell.stages(1)
    for stage in stages:
        writer_of(RULE_WRITERS, stage.rule)
    x = lengths.turned(x) if layer.reverse else x
    activation = ACTIVATIONS.get(type(stages[0].rule))
    if activation is not None and len(stages) == 1 and "RNN" in g.operators:
        none = torch.zeros(layer.hidden_size)
        weights = [weight, stages[0].weight, none if bias is None else bias, none]
        y, after = _one_way(g, "RNN", layer, x, lengths, state, weights, **activation)
    else:
        y, after = _stepped(g, stages, g.linear(x, weight, bias, "input"), lengths, state)
    return (lengths.turned(y) if layer.reverse else y), after


def _stepped(g: Graph, stages: Sequence[Stage], u: str, lengths: Lengths, state: Sequence[str]) -> Written:
    """Stages driven over u (T, B, G)."""
    biases = [s.bias is not None and g.own_table(f"stage_{k}.bias", s.bias) for k, s in enumerate(stages)]

    def step(body: Graph, before: list[str], now: list[str]) -> tuple[list[str], list[str]]:
        own = before
        for k, stage in enumerate(stages):
            added = now[0] if not k else biases[k]
            pre = body.gemm(own[0], stage.weight, [added] if added else [], f"stage_{k}.weight")
            own = RULE_WRITERS[type(stage.rule)](body, stage.rule, pre, own)
        after = [body.do("Where", now[1], new, old) for new, old in zip(own, before, strict=True)]
        return after, [after[0]]

    after, (y,) = g.scan(state, [(u, FLOAT), (lengths.valid, BOOL)], step)
    return y, after


def _qrnn(g: Graph, layer: QRNN, x: str, lengths: Lengths, state: Sequence[str]) -> Written:
    """The gates of all steps at once, then a Scan without weights."""
    c, *inputs = state
    x = lengths.turned(x) if layer.reverse else x
    first = layer.window - 1
    seen = g.joined([*(g.do("Unsqueeze", i, g.numbers(0)) for i in reversed(inputs)), x], axis=0)
    shifted = [g.sliced(seen, first - back, -back or END, 0) for back in range(layer.window)]
    keep, add, out = _qrnn_gates(g, layer, g.joined(shifted))
    keep = g.do("Where", lengths.valid, keep, g.number(1.0))
    add = g.do("Where", lengths.valid, add, g.number(0.0))

    def step(body: Graph, before: list[str], now: list[str]) -> tuple[list[str], list[str]]:
        after = body.do("Add", body.do("Mul", now[0], before[0]), now[1])
        return [after], [after]

    (last,), (y,) = g.scan([c], [(keep, FLOAT), (add, FLOAT)], step)
    y = y if out is None else g.do("Mul", out, y)
    read = [_read_last(g, seen, lengths, first - 1 - back) for back in range(first)]
    return (lengths.turned(y) if layer.reverse else y), [last, *read]


def _qrnn_gates(g: Graph, layer: QRNN, x: str) -> tuple[str, str, str | None]:
    """c_t = keep c + add, y = out c."""
    pre = g.linear(x, layer.weight_ih, layer.bias_ih, "gates")
    z, *gates = g.split(pre, [layer.hidden_size] * len(layer.gates))
    z, (f, *others) = g.do("Tanh", z), [g.do("Sigmoid", gate) for gate in gates]
    one, write = g.number(1.0), g.number(1.0 - layer.zoneout)
    if layer.pooling == "ifo":
        keep = g.do("Sub", one, g.do("Mul", g.do("Sub", one, f), write))
        return keep, g.do("Mul", g.do("Mul", others[1], write), z), others[0]
    f = g.do("Mul", f, write)
    return g.do("Sub", one, f), g.do("Mul", f, z), others[0] if others else None


def _read_last(g: Graph, seen: str, lengths: Lengths, back: int) -> str:
    """seen (T', B, I) at step length + back of each sequence: (B, I)."""
    places = g.do("Unsqueeze", g.do("Add", lengths.given, g.numbers(back)), g.numbers(-1))
    return g.do("GatherND", g.do("Transpose", seen, perm=[1, 0, 2]), places, batch_dims=1)


LAYER_WRITERS: dict[type[Layer], Writer] = {
    BlockLSTM: _block_lstm,
    Elman: _recurrent,
    GRU: _gru,
    LSTM: _lstm,
    ONLSTM: _recurrent,
    QRNN: _qrnn,
    RHN: _recurrent,
    Recurrent: _recurrent,
}
"""Layer -> what writes it."""
CELL_INPUTS: dict[type[Cell], Callable[[Part], tuple[Tensor, Tensor | None]]] = {
    ElmanCell: lambda cell: (cell.weight_ih, cell.bias_ih),
    ONLSTMCell: lambda cell: (cell.weight_ih, cell.bias_ih + cell.bias_hh),
    RHNCell: lambda cell: (cell.weight_ih, cell.bias_ih + cell.bias_hh_0),
}
"""Cell -> the weight and bias of its `project`."""
