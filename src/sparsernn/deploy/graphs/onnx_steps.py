"""A list of steps as an ONNX graph of one step whose products have weights of 8 or 4 bits.

What `step_twins` says of each kind of step in torch stands here in ONNX, with sequences in rows: operands are
(B, rows). Products are MatMulNBits, of onnxruntime's own domain; docs/export.md has what else was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.deploy.graphs.onnx_graph import FLOAT, Graph
from sparsernn.deploy.step_list import Place, Step, StepList
from sparsernn.kernels.group_rounding import BITS, GROUP, to_int4, to_nibbles
from sparsernn.kernels.weight_formats import Format, to_int8

DOMAIN = "com.microsoft"
WIDE, NARROW, WIDE_FROM = 128, 32, 1024
"""Weights to a block, each block with a factor. Onnxruntime rounds the inputs block by block too; long blocks are
faster, and fill narrow matrices up with up to as many zeros."""
ROUNDED_INPUTS = 4
"""`accuracy_level` of sums in whole numbers; sums in float32 took 20 times as long as no rounding at all."""


class Span(NamedTuple):
    """Rows of a store, and where they stand in a value of the graph that is `width` wide."""

    row: int
    rows: int
    value: str
    first: int
    width: int


class Values:
    """Which values of the graph stand in the rows of the two stores.

    Example:
        >>> import torch.nn
        >>> values = Values(Graph(18, torch.nn.Linear(1, 1)))
        >>> values.put(Place(0, 4), "h")
        >>> values.take(Place(0, 4)), values.take(Place(1, 2))
        ('h', 'Slice_0')
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._spans: dict[bool, list[Span]] = {False: [], True: []}

    def put(self, place: Place, value: str) -> None:
        """What stood in these rows is gone."""
        end, kept = place.row + place.rows, []
        for span in self._spans[place.moving]:
            kept += [
                part for part in (_cut(span, span.row, place.row), _cut(span, end, END)) if part.rows > 0
            ]
        self._spans[place.moving] = [*kept, Span(place.row, place.rows, value, 0, place.rows)]

    def take(self, place: Place) -> str:
        """The rows side by side, (B, rows)."""
        spans = (_cut(span, place.row, place.row + place.rows) for span in self._spans[place.moving])
        found = sorted(span for span in spans if span.rows > 0)
        return self.graph.joined([self._value(span) for span in found])

    def _value(self, span: Span) -> str:
        if span.rows == span.width:
            return span.value
        return self.graph.sliced(span.value, span.first, span.first + span.rows, -1)


END = 1 << 62


def _cut(span: Span, low: int, high: int) -> Span:
    """The part of it between two rows; without rows if there is none."""
    first, last = max(low, span.row), min(high, span.row + span.rows)
    return Span(first, last - first, span.value, span.first + first - span.row, span.width)


class Rounded(NamedTuple):
    """A matrix as the operator reads it: names of tables (R, blocks, bytes) uint8 and (R, blocks) float32."""

    values: str
    scales: str
    shape: tuple[int, int]
    block: int


class StepWriter:
    """Writes the steps of a model.

    Args:
        graph: to write into.
        rounding: "int8" or "int4", what weights are rounded to.

    Attributes:
        values: where the stores' rows are.
    """

    def __init__(self, graph: Graph, rounding: str) -> None:
        self.graph, self.values, self.bits = graph, Values(graph), BITS[rounding]
        self._known: dict[int, Rounded] = {}

    def matrix(self, held: Format) -> Rounded:
        """Its tables, stored once however often it is used."""
        if id(held) not in self._known:
            rows, columns = held.shape
            block = GROUP if self.bits == BITS["int4"] else WIDE if columns >= WIDE_FROM else NARROW
            number, blocks = len(self._known), -(-columns // block)
            values, scale = (to_int4 if block == GROUP else to_int8)(held.restored())
            filled = functional.pad(values, (0, -columns % block))
            if block == GROUP:
                bytes_of, factors = to_nibbles(filled.view(-1)), scale.float()
            else:
                bytes_of = (filled.short() + 128).to(torch.uint8)
                factors = scale.unsqueeze(1).expand(rows, blocks).contiguous()
            stored = self.graph.table(f"weight.{number}", bytes_of.view(rows, blocks, -1))
            scales = self.graph.table(f"weight.{number}.scale", factors)
            self._known[id(held)] = Rounded(stored, scales, held.shape, block)
        return self._known[id(held)]

    def product(self, held: Format, x: str) -> str:
        """x (B, C) -> (B, R)."""
        m = self.matrix(held)
        sizes = {"N": m.shape[0], "K": m.shape[1], "bits": self.bits, "block_size": m.block}
        return self.graph.do(
            "MatMulNBits", x, m.values, m.scales, domain=DOMAIN, accuracy_level=ROUNDED_INPUTS, **sizes
        )

    def rows(self, held: Format, words: str) -> str:
        """Rows of a matrix: words (B,) -> (B, C)."""
        g, m = self.graph, self.matrix(held)
        whole = g.do("Cast", g.do("Gather", m.values, words), to=1)
        if self.bits == BITS["int4"]:
            high = g.do("Floor", g.do("Mul", whole, g.number(1 / 16)))
            low = g.do("Sub", whole, g.do("Mul", high, g.number(16.0)))
            pairs = g.joined([g.do("Unsqueeze", half, g.numbers(-1)) for half in (low, high)])
            whole = g.do("Reshape", pairs, g.numbers(0, -1, m.block))
        steps = g.do("Sub", whole, g.number(float(1 << self.bits - 1)))
        scaled = g.do("Mul", steps, g.do("Unsqueeze", g.do("Gather", m.scales, words), g.numbers(-1)))
        return g.sliced(g.do("Flatten", scaled, axis=1), 0, m.shape[1], -1)

    def write(self, step: Step, words: str) -> None:
        """One entry of the list."""
        if step.kind == "lookup":
            assert step.first is not None
            self.values.put(step.y, self.rows(step.first, words))
            return
        a, b, c = (self.values.take(place) if place.rows else "" for place in (step.a, step.b, step.c))
        if step.kind == "affine":
            self.values.put(step.y, self._affine(step, a, b))
            return
        before = self.values.take(step.y) if step.kind in CHANGES else ""
        y, memory = KINDS[step.kind](self.graph, step, Operands(before, a, b, c))
        self.values.put(step.y, y)
        if memory:
            self.values.put(step.c, memory)

    def _affine(self, step: Step, a: str, b: str) -> str:
        assert step.first is not None
        assert step.vector is not None
        made = self.product(step.first, a)
        if step.second is not None:
            made = self.graph.do("Add", made, self.product(step.second, b))
        bias = self.graph.name("bias")
        return self.graph.do("Add", made, self.graph.table(bias, step.vector))


class Operands(NamedTuple):
    """Values (B, rows) of a step; y is what stood there before, '' where nobody asks."""

    y: str
    a: str
    b: str
    c: str


Made = tuple[str, str]
"""The new y, and the new c or ''."""


def _parts(g: Graph, x: str, count: int, width: int) -> list[str]:
    return g.split(x, [width] * count)


def _gate(g: Graph, x: str) -> str:
    return g.do("Sigmoid", x)


def _rest(g: Graph, x: str) -> str:
    return g.do("Sub", g.number(1.0), x)


def _blend(g: Graph, keep: str, old: str, write: str, new: str) -> str:
    """keep old + write new."""
    return g.do("Add", g.do("Mul", keep, old), g.do("Mul", write, new))


def _alone(op: str) -> Callable[[Graph, Step, Operands], Made]:
    def act(g: Graph, step: Step, v: Operands) -> Made:
        return g.do(op, v.a), ""

    return act


def _modrelu(g: Graph, step: Step, v: Operands) -> Made:
    size = g.do("Relu", g.do("Add", g.do("Abs", v.a), v.b))
    return g.do("Mul", g.do("Sign", v.a), size), ""


def _lstm(g: Graph, step: Step, v: Operands) -> Made:
    i, f, n, o = _parts(g, v.a, 4, step.y.rows)
    c = _blend(g, _gate(g, f), v.c, _gate(g, i), g.do("Tanh", n))
    return g.do("Mul", _gate(g, o), g.do("Tanh", c)), c


def gru_step(g: Graph, size: int, h: str, given: str, own: str) -> Made:
    """h (B, size) after a step of a GRU: what the input gives to the three gates, and the state, (B, 3 size) each."""
    (r, z, n), (own_r, own_z, own_n) = (_parts(g, x, 3, size) for x in (given, own))
    keep, read = _gate(g, g.do("Add", z, own_z)), _gate(g, g.do("Add", r, own_r))
    fresh = g.do("Tanh", g.do("Add", n, g.do("Mul", read, own_n)))
    return _blend(g, _rest(g, keep), fresh, keep, h), ""


def _gru(g: Graph, step: Step, v: Operands) -> Made:
    return gru_step(g, step.y.rows, v.y, v.a, v.b)


def _highway(g: Graph, step: Step, v: Operands) -> Made:
    h, t = _parts(g, v.a, 2, step.y.rows)
    write = _gate(g, t)
    return _blend(g, _rest(g, write), v.y, write, g.do("Tanh", h)), ""


def _free_highway(g: Graph, step: Step, v: Operands) -> Made:
    h, t, c = _parts(g, v.a, 3, step.y.rows)
    return _blend(g, _gate(g, c), v.y, _gate(g, t), g.do("Tanh", h)), ""


def _masters(g: Graph, step: Step, v: Operands) -> Made:
    into, forget = _parts(g, v.a, 2, step.size)
    last = g.table("int_-1_alone", torch.tensor(-1))
    into, forget = (g.do("CumSum", g.do("Softmax", x, axis=-1), last) for x in (into, forget))
    both = g.do("Unsqueeze", g.joined([_rest(g, into), forget]), g.numbers(-1))
    wide = g.do("Expand", both, g.numbers(1, 1, step.y.rows // (2 * step.size)))
    return g.do("Flatten", wide, axis=1), ""


def _ordered(g: Graph, step: Step, v: Operands) -> Made:
    size = step.y.rows
    (out, cell, into, forget), (i, f) = _parts(g, v.a, 4, size), _parts(g, v.b, 2, size)
    both = g.do("Mul", f, i)
    keep, write = (
        g.do("Add", g.do("Mul", _gate(g, gate), both), g.do("Sub", master, both))
        for gate, master in ((forget, f), (into, i))
    )
    c = _blend(g, keep, v.c, write, g.do("Tanh", cell))
    return g.do("Mul", _gate(g, out), g.do("Tanh", c)), c


def _pool(gates: int) -> Callable[[Graph, Step, Operands], Made]:
    def pool(g: Graph, step: Step, v: Operands) -> Made:
        z, f, *others = _parts(g, v.a, gates, step.y.rows)
        share = g.number(step.factor)
        if others[1:]:
            keep = _rest(g, g.do("Mul", _rest(g, _gate(g, f)), share))
            write = g.do("Mul", _gate(g, others[1]), share)
        else:
            write = g.do("Mul", _gate(g, f), share)
            keep = _rest(g, write)
        c = _blend(g, keep, v.c, write, g.do("Tanh", z))
        return (g.do("Mul", _gate(g, others[0]), c), c) if others else (c, "")

    return pool


def _norm(g: Graph, step: Step, v: Operands) -> Made:
    scores = g.joined([x for x in (v.a, v.b) if x])
    largest = g.do("Unsqueeze", g.reduced("ReduceLogSumExp", scores, 1), g.numbers(1))
    return (g.do("Sub", v.c, largest) if step.size else g.do("Neg", largest)), ""


def _shift(g: Graph, step: Step, v: Operands) -> Made:
    return g.do("Add", v.y, v.b), ""


def _mix(g: Graph, step: Step, v: Operands) -> Made:
    each = g.do("Reshape", v.a, g.numbers(-1, step.size, step.y.rows))
    mixed = g.reduced("ReduceLogSumExp", g.do("Add", each, g.do("Unsqueeze", v.b, g.numbers(-1))), 1)
    if step.factor == -math.inf:
        return mixed, ""
    return g.do("Log", g.do("Add", g.do("Exp", mixed), g.number(math.exp(step.factor)))), ""


CHANGES = {"gru", "highway", "free_highway", "shift"}
"""Kinds that read what stood in y before."""

KINDS: dict[str, Callable[[Graph, Step, Operands], Made]] = {
    "copy": _alone("Identity"),
    "tanh": _alone("Tanh"),
    "relu": _alone("Relu"),
    "modrelu": _modrelu,
    "lstm": _lstm,
    "gru": _gru,
    "highway": _highway,
    "free_highway": _free_highway,
    "masters": _masters,
    "ordered": _ordered,
    "pool_f": _pool(2),
    "pool_fo": _pool(3),
    "pool_ifo": _pool(4),
    "norm": _norm,
    "shift": _shift,
    "mix": _mix,
}
"""Kind of step -> what writes it; "lookup" and "affine" are the writer's own."""


def write_steps(
    graph: Graph, steps: StepList, outputs: Place, normalised: bool, rounding: str
) -> list[tuple[str, Tensor]]:
    """One step of a language model: words (B), state.0 ... -> log_prob (B, V), next.0 ...

    Args:
        graph: an empty one.
        steps: with a single pass.
        outputs: where the scores are.
        normalised: whether they are logarithms of probabilities already.
        rounding: "int8" or "int4", what weights are rounded to.

    Returns:
        Each state's input and what it begins with, (rows,).
    """
    assert len(steps.passes) == 1
    writer, words = StepWriter(graph, rounding), graph.input("words", "INT64", ("B",))
    begins = dict[Place, Tensor]()
    for number, (place, values) in enumerate(steps.constants):
        writer.values.put(place, graph.table(f"constant.{number}", values.unsqueeze(0)))
        begins[place] = values
    places = [place for state in steps.states for place in state]
    for k, place in enumerate(places):
        writer.values.put(place, graph.input(f"state.{k}", FLOAT, ("B", place.rows)))
    for step in steps.passes[0][0]:
        writer.write(step, words)
    scores = writer.values.take(outputs)
    given = scores if normalised else graph.do("LogSoftmax", scores, axis=-1)
    graph.output("log_prob", given, FLOAT, ("B", outputs.rows))
    for k, place in enumerate(places):
        graph.output(f"next.{k}", writer.values.take(place), FLOAT, ("B", place.rows))
    return [(f"state.{k}", begins.get(p, torch.zeros(p.rows))) for k, p in enumerate(places)]
