"""An ONNX graph, written node by node: names that stay, each table once. The package onnx is met at the end alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json, Part

FLOAT, INT, BOOL = "FLOAT", "INT64", "BOOL"
OLDEST, USUAL, NEWEST = 13, 18, 23
"""Versions of ONNX's operators. 13 (2020) is the first whose Squeeze, Split and Softmax are written as here, 18 what
torch writes, 23 the newest that onnxruntime 1.23, the oldest supported, reads."""
AXES_AS_INPUT = 18
"""From this version on the reductions other than ReduceSum take their axes as an input."""
END = np.iinfo(np.int64).max
LARGEST = 2**31 - 1
"""Bytes that a file of protobuf can have."""

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Json]


class Graph:
    """Nodes in the order in which they are written.

    Attributes:
        operators: of the recurrent ones, those that are written; what others would do is a Scan.

    Args:
        opset: version of the operators, `OLDEST` to `NEWEST`.
        model: whose parameters and buffers give their names to tables.

    Example:
        >>> graph = Graph(18, nn.Linear(3, 2))
        >>> graph.input("x", FLOAT, ("B", 3))
        'x'
        >>> graph.do("Tanh", "x")
        'Tanh_0'
    """

    operators: ClassVar[tuple[str, ...]] = ("LSTM", "GRU", "RNN")

    def __init__(self, opset: int, model: nn.Module) -> None:
        self.opset = opset
        self.nodes: list[Node] = []
        self.inputs: list[tuple[str, str, Shape | None]] = []
        self.outputs: list[tuple[str, str, Shape | None]] = []
        self.tables: dict[str, NDArray[np.generic]] = {}
        self._own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._scopes: list[str] = []
        self._used: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of what is written inside begin with `name`."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def name(self, what: str) -> str:
        """A name that nothing else has, in the scopes that are open."""
        full = "/".join((*self._scopes, what))
        number = self._used[full] = self._used.get(full, -1) + 1
        return f"{full}_{number}"

    def body(self) -> Graph:
        """A graph inside this one, such as that of a step: it sees what is outside, and has the same tables."""
        inside = type(self).__new__(type(self))
        inside.__dict__ = {**self.__dict__, "nodes": [], "inputs": [], "outputs": []}
        return inside

    def input(self, name: str, kind: str, shape: Shape | None = None) -> str:
        """An input; its shape is a number or a letter for each axis."""
        self.inputs.append((name, kind, shape))
        return name

    def output(self, name: str, value: str, kind: str, shape: Shape | None = None) -> None:
        """Give a value out under a name."""
        self.nodes.append(Node("Identity", (value,), (name,), {}))
        self.outputs.append((name, kind, shape))

    def several(self, op: str, *inputs: str, outputs: int, **attributes: Json) -> list[str]:
        """An operation of several outputs; an input that is left out is ''."""
        names = [self.name(op) for _ in range(outputs)]
        self.nodes.append(Node(op, inputs, tuple(names), attributes))
        return names

    def do(self, op: str, *inputs: str, **attributes: Json) -> str:
        """An operation of one output, whose name is returned."""
        return self.several(op, *inputs, outputs=1, **attributes)[0]

    def weight(self, tensor: Tensor) -> str:
        """The table of a parameter or buffer of the model, under its name there, stored once however often used."""
        name = self._own[id(tensor)]
        return name if name in self.tables else self.table(name, tensor)

    def table(self, name: str, tensor: Tensor) -> str:
        """A table under a name of its own."""
        whole = tensor.detach().cpu()
        self.tables[name] = (whole.float() if whole.is_floating_point() else whole).numpy()
        return name

    def label(self, weight: Tensor, what: str) -> str:
        """The name of a parameter in the model; of what else there is, `what` in the scopes that are open."""
        return self._own.get(id(weight)) or "/".join((*self._scopes, what))

    def own_table(self, what: str, tensor: Tensor) -> str:
        """A table that was made for a place in the graph."""
        return self.table("/".join((*self._scopes, what)), tensor)

    def numbers(self, *values: int) -> str:
        """Whole numbers, such as axes: int64 (N,)."""
        name = f"int_{'_'.join(map(str, values))}"
        return self.table(name, torch.tensor(values, dtype=torch.int64))

    def number(self, value: float) -> str:
        """One number, float32 ()."""
        return self.table(f"float_{value:.9g}", torch.tensor(value, dtype=torch.float32))

    def sliced(self, x: str, start: int, end: int, axis: int) -> str:
        """x[start:end] along an axis."""
        return self.do("Slice", x, self.numbers(start), self.numbers(end), self.numbers(axis))

    def split(self, x: str, sizes: Sequence[int], axis: int = -1) -> list[str]:
        """x in parts of these sizes."""
        if len(sizes) == 1:
            return [x]
        return self.several("Split", x, self.numbers(*sizes), outputs=len(sizes), axis=axis)

    def joined(self, parts: Sequence[str], axis: int = -1) -> str:
        """Parts side by side."""
        return parts[0] if len(parts) == 1 else self.do("Concat", *parts, axis=axis)

    def reduced(self, op: str, x: str, axis: int) -> str:
        """A reduction along one axis, which goes."""
        if self.opset < AXES_AS_INPUT:
            return self.do(op, x, axes=[axis], keepdims=0)
        return self.do(op, x, self.numbers(axis), keepdims=0)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None, what: str = "linear") -> str:
        """x (..., I) -> x W^T + b (..., G), for a weight that nothing else uses."""
        product = self.do("MatMul", x, self.own_table(f"{what}.weight", weight.t().contiguous()))
        return product if bias is None else self.do("Add", product, self.own_table(f"{what}.bias", bias))

    def gemm(self, x: str, weight: Tensor, added: Sequence[str] = (), what: str = "weight") -> str:
        """x (N, I) -> x W^T (N, G), plus a value (N, G) or (G,); a parameter is stored once however often used."""
        return self.do("Gemm", x, self.table(self.label(weight, what), weight), *added, transB=1)

    def rows(self, weight: Tensor, numbers: str) -> str:
        """Rows of a weight (R, C) of the model: numbers (...) -> (..., C)."""
        return self.do("Gather", self.weight(weight), numbers)

    def recurrence(
        self, op: str, x: str, tables: Mapping[str, Tensor], others: Sequence[str], outputs: int, **more: Json
    ) -> list[str]:
        """One of `operators`.

        Args:
            op: which.
            x: (T, B, I).
            tables: W (D, G, I), R (D, G, H) and B (D, 2G) of D directions, in the operator's order of gates.
            others: lengths and states.
            outputs: how many.
            more: attributes.
        """
        stored = (self.own_table(name, table) for name, table in tables.items())
        return self.several(op, x, *stored, *others, outputs=outputs, **more)

    def scan(
        self, states: Sequence[str], inputs: Sequence[tuple[str, str]], step: Step
    ) -> tuple[list[str], list[str]]:
        """A loop over the first axis.

        Args:
            states: before the first step.
            inputs: (T, ...) each, with its kind.
            step: (graph of the step, states, inputs at the step) -> (states after it, what is put out).

        Returns:
            The last states, and what was put out, (T, ...) each.
        """
        body = self.body()
        before = [body.input(self.name("before"), FLOAT) for _ in states]
        now = [body.input(self.name("now"), kind) for _, kind in inputs]
        after, out = step(body, before, now)
        for value in (*after, *out):
            body.output(self.name("after"), value, FLOAT)
        found = self.several(
            "Scan",
            *states,
            *(name for name, _ in inputs),
            outputs=len(after) + len(out),
            num_scan_inputs=len(inputs),
            body=body,
        )
        return found[: len(states)], found[len(states) :]

    def write(self, path: Path, told: Mapping[str, str], title: str) -> None:
        """The file.

        Args:
            path: where.
            told: goes into the file's `metadata_props`.
            title: the graph's name.

        Raises:
            InputError: more bytes than an ONNX file can have.
        """
        size = sum(table.nbytes for table in self.tables.values())
        if size > LARGEST:
            raise InputError(
                f"the model has {size:,} bytes of weights; an ONNX file can have {LARGEST:,}. Use .pt2."
            )
        from onnx import helper, save

        opsets = [helper.make_opsetid("", self.opset)]
        domains = {str(node.attributes["domain"]) for node in self.nodes if "domain" in node.attributes}
        model = helper.make_model(
            _proto(self, title, self.tables),
            opset_imports=[*opsets, *(helper.make_opsetid(domain, 1) for domain in sorted(domains))],
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="sparsernn",
        )
        helper.set_model_props(model, dict(told))
        save(model, str(path))


Step = Callable[[Graph, list[str], list[str]], tuple[list[str], list[str]]]


def writer_of(writers: Mapping[type[Part], Part], part: object) -> Part:
    """What writes a part of exactly this type; what derives from it may do something else.

    Raises:
        InputError: nothing does.
    """
    if type(part) not in writers:
        raise InputError(
            f"{type(part).__name__} cannot be written as an ONNX graph of whole sequences; a file that ends in .pt2, "
            "or --graph step, can hold it."
        )
    return writers[type(part)]


def _proto(graph: Graph, title: str, tables: Mapping[str, NDArray[np.generic]]) -> Any:
    """onnx's form of a graph."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node(
            node.op,
            node.inputs,
            node.outputs,
            name=node.outputs[0],
            **{k: _proto(v, "body", {}) if isinstance(v, Graph) else v for k, v in node.attributes.items()},
        )
        for node in graph.nodes
    ]
    stored = [numpy_helper.from_array(table, name) for name, table in tables.items()]
    return helper.make_graph(nodes, title, _described(graph.inputs), _described(graph.outputs), stored)


def _described(values: Sequence[tuple[str, str, Shape | None]]) -> list[Any]:
    from onnx import TensorProto, helper

    return [
        helper.make_tensor_value_info(
            name, getattr(TensorProto, kind), None if shape is None else list(shape)
        )
        for name, kind, shape in values
    ]
