"""One step of each kind of layer: its tables, its numbers of state, its statements in C, and its rounded twin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.plain_c.c_functions import Functions, curve, gate
from sparsernn.deploy.plain_c.const_tables import Constant, Floats, Matrix, vector
from sparsernn.nn import GRU, LSTM, QRNN, BlockLSTM, Elman
from sparsernn.nn.drive.layer import Layer

State = dict[str, Floats]
ONE = np.float32(1)

LSTM_TEXT = """\
static void lstm(float *h, float *c, const float *pre, int32_t size)
{
    for (int32_t k = 0; k < size; ++k) {
        const float i = gate(pre[k]), f = gate(pre[size + k]);
        const float g = curve(pre[2 * size + k]), o = gate(pre[3 * size + k]);
        c[k] = f * c[k] + i * g;
        h[k] = o * curve(c[k]);
    }
}
"""
GRU_TEXT = """\
/* pre: what the input gives to all three gates, then what the state gives */
static void gru(float *h, const float *pre, int32_t size)
{
    const float *own = pre + 3 * size;
    for (int32_t k = 0; k < size; ++k) {
        const float r = gate(pre[k] + own[k]), z = gate(pre[size + k] + own[size + k]);
        const float n = curve(pre[2 * size + k] + r * own[2 * size + k]);
        h[k] = (1.0f - z) * n + z * h[k];
    }
}
"""
POOL_TEXTS = {
    "f": """\
static void pool_f(float *c, const float *pre, int32_t size, float write)
{
    for (int32_t k = 0; k < size; ++k) {
        const float z = curve(pre[k]), f = gate(pre[size + k]) * write;
        c[k] = f * z + (1.0f - f) * c[k];
    }
}
""",
    "fo": """\
static void pool_fo(float *h, float *c, const float *pre, int32_t size, float write)
{
    for (int32_t k = 0; k < size; ++k) {
        const float z = curve(pre[k]), f = gate(pre[size + k]) * write;
        c[k] = f * z + (1.0f - f) * c[k];
        h[k] = gate(pre[2 * size + k]) * c[k];
    }
}
""",
    "ifo": """\
static void pool_ifo(float *h, float *c, const float *pre, int32_t size, float write)
{
    for (int32_t k = 0; k < size; ++k) {
        const float z = curve(pre[k]), keep = 1.0f - (1.0f - gate(pre[size + k])) * write;
        const float i = gate(pre[3 * size + k]) * write;
        c[k] = keep * c[k] + i * z;
        h[k] = gate(pre[2 * size + k]) * c[k];
    }
}
""",
}
SHIFT_TEXT = """\
/* room for one more input in front of the earlier ones */
static void shift(float *x, int32_t size, int32_t by)
{
    for (int32_t k = size - 1; k >= by; --k)
        x[k] = x[k - by];
}
"""
RULES: dict[str, tuple[str, Callable[[Floats, Floats | None], Floats]]] = {
    "none": ("pre[k]", lambda pre, _: pre.copy()),
    "tanh": ("curve(pre[k])", lambda pre, _: curve(pre)),
    "relu": ("pre[k] > 0.0f ? pre[k] : 0.0f", lambda pre, _: np.where(pre > 0, pre, np.float32(0))),
}
RULE_TEXT = """\
static void elman_RULE(float *h, const float *pre, int32_t size)
{
    for (int32_t k = 0; k < size; ++k)
        h[k] = VALUE;
}
"""
MODRELU_TEXT = """\
static void elman_modrelu(float *h, const float *pre, const float *bias, int32_t size)
{
    for (int32_t k = 0; k < size; ++k) {
        float on = (pre[k] < 0.0f ? -pre[k] : pre[k]) + bias[k];
        if (on < 0.0f || pre[k] == 0.0f)
            on = 0.0f;
        h[k] = pre[k] < 0.0f ? -on : on;
    }
}
"""


class Part(ABC):
    """One step of a layer.

    Args:
        name: of the layer in C; all its tables and fields begin with it.
        layer: whose weights are written, in float32.
        values: what matrices are rounded to; see `const_tables.VALUES`.

    Attributes:
        fields: name -> numbers of the state that are kept from step to step, 0 at first.
        starts: name of a field -> the table that it begins with instead.
        scratch: floats that a step needs besides.
        output: the field that the next layer reads.
    """

    def __init__(self, name: str, layer: Layer, values: str) -> None:
        self.name, self.values = name, values
        self.fields: dict[str, int] = {}
        self.starts: dict[str, Constant] = {}
        self.matrices: list[Matrix] = []
        self.vectors: list[Constant] = []
        self.scratch = 0
        self.output = f"{name}_h"
        self._take(layer)

    @abstractmethod
    def _take(self, layer: Any) -> None:
        """Read the layer."""

    @abstractmethod
    def statements(self, functions: Functions, x: str) -> list[str]:
        """A step in C; x is the expression for what is read."""

    @abstractmethod
    def twin(self, state: State, x: Floats) -> None:
        """The same step in rounded numbers, to the bit."""

    def _matrix(self, suffix: str, weight: Tensor) -> Matrix:
        matrix = Matrix(f"{self.name}_{suffix}", weight, self.values)
        self.matrices.append(matrix)
        return matrix

    def _vector(self, suffix: str, tensor: Tensor) -> Constant:
        table = vector(f"{self.name}_{suffix}", tensor)
        self.vectors.append(table)
        return table


class LSTMPart(Part):
    """An `LSTM`, or a `BlockLSTM` as the LSTMs that it is made of."""

    def _take(self, layer: LSTM | BlockLSTM) -> None:
        size = layer.hidden_size
        self.fields = {f"{self.name}_h": size, f"{self.name}_c": size}
        whole = (
            [(range(layer.input_size), range(size), [getattr(layer, w) for w in WEIGHTS])]
            if (isinstance(layer, LSTM))
            else [
                (window, units, layer.weights(n))
                for n, (window, units) in enumerate(zip(layer.windows, layer.hidden_spans(), strict=True))
                if units
            ]
        )
        self.components = []
        for n, (window, units, (w_ih, w_hh, b_ih, b_hh)) in enumerate(whole):
            end = f"_{n}" if len(whole) > 1 else ""
            tables = (self._matrix("w_ih" + end, w_ih), self._matrix("w_hh" + end, w_hh))
            self.components.append((window, units, *tables, self._vector("bias" + end, b_ih + b_hh)))
            self.scratch = max(self.scratch, 4 * len(units))

    def statements(self, functions: Functions, x: str) -> list[str]:
        """See `Part`."""
        call, lines = functions.own("lstm", LSTM_TEXT, ("curve", "gate")), []
        for window, units, w_ih, w_hh, bias in self.components:
            h, c = (_at(f"s->{field}", units.start) for field in self.fields)
            lines.append(functions.copy("s->pre", bias.name, 4 * len(units)))
            lines += functions.product(w_ih, "s->pre", _at(x, window.start))
            lines += functions.product(w_hh, "s->pre", h)
            lines.append(f"{call}({h}, {c}, s->pre, {len(units)});")
        return lines

    def twin(self, state: State, x: Floats) -> None:
        """See `Part`."""
        for window, units, w_ih, w_hh, bias in self.components:
            h, c = (state[field][units.start : units.stop] for field in self.fields)
            pre = bias.values.copy()
            w_ih.add(pre, x[window.start : window.stop])
            w_hh.add(pre, h)
            i, f, g, o = pre.reshape(4, -1)
            c[:] = gate(f) * c + gate(i) * curve(g)
            h[:] = gate(o) * curve(c)


class GRUPart(Part):
    """A `GRU`."""

    def _take(self, layer: GRU) -> None:
        self.size = layer.hidden_size
        self.fields = {self.output: self.size}
        self.w_ih, self.w_hh = self._matrix("w_ih", layer.weight_ih), self._matrix("w_hh", layer.weight_hh)
        self.bias = self._vector("bias", torch.cat([layer.bias_ih, layer.bias_hh]))
        self.scratch = 6 * self.size

    def statements(self, functions: Functions, x: str) -> list[str]:
        """See `Part`."""
        return [
            functions.copy("s->pre", self.bias.name, 6 * self.size),
            *functions.product(self.w_ih, "s->pre", x),
            *functions.product(self.w_hh, _at("s->pre", 3 * self.size), f"s->{self.output}"),
            f"{functions.own('gru', GRU_TEXT, ('curve', 'gate'))}(s->{self.output}, s->pre, {self.size});",
        ]

    def twin(self, state: State, x: Floats) -> None:
        """See `Part`."""
        h, pre = state[self.output], self.bias.values.copy()
        read, own = pre[: 3 * self.size], pre[3 * self.size :]
        self.w_ih.add(read, x)
        self.w_hh.add(own, h)
        (r, z, n), (own_r, own_z, own_n) = read.reshape(3, -1), own.reshape(3, -1)
        z = gate(z + own_z)
        h[:] = (ONE - z) * curve(n + gate(r + own_r) * own_n) + z * h


class ElmanPart(Part):
    """An `Elman`, its map computed once."""

    def _take(self, layer: Elman) -> None:
        cell = layer.cell
        self.size, self.rule = layer.hidden_size, cell.nonlinearity
        self.fields = {self.output: self.size}
        self.w_ih, self.w_hh = self._matrix("w_ih", cell.weight_ih), self._matrix("w_hh", cell.map())
        bias = torch.zeros(self.size) if cell.bias_ih is None else cell.bias_ih
        self.bias = self._vector("bias", bias)
        self.on = self._vector("on", cell.bias_modrelu) if self.rule == "modrelu" else None
        if len(layer.start):
            self.starts[self.output] = self._vector("start", layer.start[0])
        self.scratch = self.size

    def statements(self, functions: Functions, x: str) -> list[str]:
        """See `Part`."""
        if self.on is not None:
            call, bias = functions.own("elman_modrelu", MODRELU_TEXT), f"{self.on.name}, "
        else:
            text = RULE_TEXT.replace("RULE", self.rule).replace("VALUE", RULES[self.rule][0])
            curves = ("curve",) if self.rule == "tanh" else ()
            call, bias = functions.own(f"elman_{self.rule}", text, curves), ""
        return [
            functions.copy("s->pre", self.bias.name, self.size),
            *functions.product(self.w_ih, "s->pre", x),
            *functions.product(self.w_hh, "s->pre", f"s->{self.output}"),
            f"{call}(s->{self.output}, s->pre, {bias}{self.size});",
        ]

    def twin(self, state: State, x: Floats) -> None:
        """See `Part`."""
        h, pre = state[self.output], self.bias.values.copy()
        self.w_ih.add(pre, x)
        self.w_hh.add(pre, h)
        if self.on is None:
            h[:] = RULES[self.rule][1](pre, None)
            return
        on = np.abs(pre) + self.on.values
        on = np.where((on < 0) | (pre == 0), np.float32(0), on)
        h[:] = np.where(pre < 0, -on, on)


class QRNNPart(Part):
    """A `QRNN`; where its window is wider than 1, its last inputs are kept, the latest first."""

    def _take(self, layer: QRNN) -> None:
        self.size, self.inputs, self.pooling = layer.hidden_size, layer.input_size, layer.pooling
        self.write, self.window = np.float32(1.0 - layer.zoneout), layer.window
        self.fields = {f"{self.name}_c": self.size}
        if "o" in self.pooling:
            self.fields[self.output] = self.size
        else:
            self.output = f"{self.name}_c"
        if self.window > 1:
            self.fields[f"{self.name}_x"] = self.window * self.inputs
        self.w_ih, self.bias = self._matrix("w_ih", layer.weight_ih), self._vector("bias", layer.bias_ih)
        self.scratch = len(layer.gates) * self.size

    def statements(self, functions: Functions, x: str) -> list[str]:
        """See `Part`."""
        lines = []
        if self.window > 1:
            seen = f"s->{self.name}_x"
            call = functions.own("shift", SHIFT_TEXT)
            lines = [f"{call}({seen}, {self.window * self.inputs}, {self.inputs});"]
            lines.append(functions.copy(seen, x, self.inputs))
            x = seen
        lines.append(functions.copy("s->pre", self.bias.name, self.scratch))
        lines += functions.product(self.w_ih, "s->pre", x)
        call = functions.own(f"pool_{self.pooling}", POOL_TEXTS[self.pooling], ("curve", "gate"))
        out = f"s->{self.output}, " if "o" in self.pooling else ""
        write = f"{float(self.write):.9g}"
        write = (write if "." in write or "e" in write else write + ".0") + "f"
        return [*lines, f"{call}({out}s->{self.name}_c, s->pre, {self.size}, {write});"]

    def twin(self, state: State, x: Floats) -> None:
        """See `Part`."""
        if self.window > 1:
            seen = state[f"{self.name}_x"]
            seen[self.inputs :] = seen[: -self.inputs].copy()
            seen[: self.inputs] = x
            x = seen
        pre, c = self.bias.values.copy(), state[f"{self.name}_c"]
        self.w_ih.add(pre, x)
        z, f, *others = pre.reshape(-1, self.size)
        if self.pooling == "ifo":
            keep = ONE - (ONE - gate(f)) * self.write
            c[:] = keep * c + gate(others[1]) * self.write * curve(z)
        else:
            f = gate(f) * self.write
            c[:] = f * curve(z) + (ONE - f) * c
        if others:
            state[self.output][:] = gate(others[0]) * c


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
PARTS: dict[type, type[Part]] = {
    LSTM: LSTMPart,
    GRU: GRUPart,
    Elman: ElmanPart,
    QRNN: QRNNPart,
    BlockLSTM: LSTMPart,
}
"""Layer -> how it is written."""


def part_of(layer: Layer, number: int, values: str) -> Part:
    """How a layer of a stack is written.

    Raises:
        InputError: a layer of another kind, one that reads backwards or has the batch first.

    Example:
        >>> part_of(GRU(3, 5), 0, "float32").fields
        {'layer0_h': 5}
    """
    if type(layer) not in PARTS:
        known = ", ".join(sorted(kind.__name__ for kind in PARTS))
        raise InputError(
            f"layer {number} is of the kind {type(layer).__name__}, which cannot be written as plain C; "
            f"these can: {known}."
        )
    for name in ("bidirectional", "reverse", "batch_first"):
        if getattr(layer, name, False):
            raise InputError(
                f"layer {number} has {name}: true, so it cannot be written as plain C, "
                "which reads one step after the other."
            )
    return PARTS[type(layer)](f"layer{number}", layer, values)


def _at(expression: str, offset: int) -> str:
    return f"{expression} + {offset}" if offset else expression
