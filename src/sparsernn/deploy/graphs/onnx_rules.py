"""What happens between two recurrent products, in ONNX: one function per rule, written like its equations.

All have the signature (graph of the step, rule, pre (B, G), state before) -> state after.
"""

from collections.abc import Callable

import torch

from sparsernn.core.plain import Part
from sparsernn.deploy.graphs.onnx_graph import Graph
from sparsernn.nn.cells.elman import Identity, ModReLU, ReLU, Tanh
from sparsernn.nn.cells.onlstm import OrderedMemory
from sparsernn.nn.cells.rhn import FreeHighway, Highway
from sparsernn.nn.drive.cell import Rule


def _same(g: Graph, rule: Identity, pre: str, state: list[str]) -> list[str]:
    return [pre]


def _tanh(g: Graph, rule: Tanh, pre: str, state: list[str]) -> list[str]:
    return [g.do("Tanh", pre)]


def _relu(g: Graph, rule: ReLU, pre: str, state: list[str]) -> list[str]:
    return [g.do("Relu", pre)]


def _modrelu(g: Graph, rule: ModReLU, pre: str, state: list[str]) -> list[str]:
    size = g.do("Relu", g.do("Add", g.do("Abs", pre), g.weight(rule.parameters[0])))
    return [g.do("Mul", g.do("Sign", pre), size)]


def _highway(g: Graph, rule: Highway, pre: str, state: list[str]) -> list[str]:
    h, t = _halves(g, pre, 2)
    h, t = g.do("Tanh", h), g.do("Sigmoid", t)
    carried = g.do("Mul", state[0], g.do("Sub", g.number(1.0), t))
    return [g.do("Add", g.do("Mul", h, t), carried)]


def _free_highway(g: Graph, rule: FreeHighway, pre: str, state: list[str]) -> list[str]:
    h, t, c = _halves(g, pre, 3)
    carried = g.do("Mul", state[0], g.do("Sigmoid", c))
    return [g.do("Add", g.do("Mul", g.do("Tanh", h), g.do("Sigmoid", t)), carried)]


def _halves(g: Graph, pre: str, parts: int) -> list[str]:
    """Equal parts of the last axis, whatever its width."""
    more = {"num_outputs": parts} if g.opset >= 18 else {}
    return g.several("Split", pre, outputs=parts, axis=-1, **more)


def _ordered_memory(g: Graph, rule: OrderedMemory, pre: str, state: list[str]) -> list[str]:
    k = rule.chunks
    masters_in, masters_forget, gates = (
        g.sliced(pre, 0, k, -1),
        g.sliced(pre, k, 2 * k, -1),
        g.sliced(pre, 2 * k, torch.iinfo(torch.int64).max, -1),
    )
    i_, f_ = g.do("Sub", g.number(1.0), _cumax(g, masters_in)), _cumax(g, masters_forget)
    i_, f_ = (g.do("Unsqueeze", m, g.numbers(-1)) for m in (i_, f_))
    out, cell, into, forget = (g.do("Reshape", p, g.numbers(0, k, -1)) for p in _halves(g, gates, 4))
    overlap = g.do("Mul", f_, i_)
    keep, write = (
        g.do("Add", g.do("Mul", g.do("Sigmoid", gate), overlap), g.do("Sub", master, overlap))
        for gate, master in ((forget, f_), (into, i_))
    )
    before = g.do("Reshape", state[1], g.numbers(0, k, -1))
    c = g.do("Add", g.do("Mul", keep, before), g.do("Mul", write, g.do("Tanh", cell)))
    h = g.do("Mul", g.do("Sigmoid", out), g.do("Tanh", c))
    return [g.do("Flatten", h, axis=1), g.do("Flatten", c, axis=1)]


def _cumax(g: Graph, z: str) -> str:
    last = g.table("int_-1_alone", torch.tensor(-1))
    return g.do("CumSum", g.do("Softmax", z, axis=-1), last)


RULE_WRITERS: dict[type[Rule], Callable[[Graph, Part, str, list[str]], list[str]]] = {
    FreeHighway: _free_highway,
    Highway: _highway,
    Identity: _same,
    ModReLU: _modrelu,
    OrderedMemory: _ordered_memory,
    ReLU: _relu,
    Tanh: _tanh,
}
"""Rule -> what writes it."""
