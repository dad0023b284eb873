"""The functions in C that step programs are made of; each file gets those that it calls."""

from __future__ import annotations

import math

import numpy as np

from sparsernn.deploy.plain_c.const_tables import BLOCK, SMALLEST, Constant, Floats, Matrix, literal
from sparsernn.deploy.plain_c.nibble_functions import ADD_OF_NIBBLES, HALF, NIBBLE, ROW_OF_NIBBLES

SHARE = 32
"""Places of the table of tanh per unit. Lines between them are off by 1e-4 at most."""
END = 8
"""Where tanh counts as 1."""
TANH = np.array([math.tanh(k / SHARE) for k in range(END * SHARE + 1)], dtype=np.float32)

COPY = """\
static void copy(float *y, const float *x, int32_t size)
{
    for (int32_t k = 0; k < size; ++k)
        y[k] = x[k];
}
"""
CLEAR = """\
static void clear(float *y, int32_t size)
{
    for (int32_t k = 0; k < size; ++k)
        y[k] = 0.0f;
}
"""
FLOAT_CURVES = """\
static float curve(float x)
{
    return tanhf(x);
}
"""
FLOAT_GATE = """\
static float gate(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
"""
TABLE_CURVES = f"""\
/* tanh, by lines between the places of a table: the same bits everywhere */
static float curve(float x)
{{
    const float a = x < 0.0f ? -x : x;
    float y = 1.0f;
    if (a < {END}.0f) {{
        const float place = a * {SHARE}.0f;
        const int32_t k = (int32_t)place;
        y = tanh_table[k] + (place - (float)k) * (tanh_table[k + 1] - tanh_table[k]);
    }}
    return x < 0.0f ? -y : y;
}}
"""
TABLE_GATE = """\
static float gate(float x)
{
    return 0.5f * curve(0.5f * x) + 0.5f;
}
"""
IN_STEPS = f"""\
/* x in whole steps of the result, at most `steps` of them to each side */
static float in_steps(int16_t *q, const float *x, int32_t size, float steps)
{{
    float largest = 0.0f, factor = 0.0f;
    for (int32_t k = 0; k < size; ++k) {{
        const float a = x[k] < 0.0f ? -x[k] : x[k];
        if (a > largest)
            largest = a;
    }}
    if (largest > {literal(SMALLEST)})
        factor = steps / largest;
    else
        largest = 0.0f;
    for (int32_t k = 0; k < size; ++k) {{
        float v = x[k] * factor;
        if (!(v > -steps))
            v = -steps;
        if (v > steps)
            v = steps;
        q[k] = (int16_t)(v < 0.0f ? v - 0.5f : v + 0.5f);
    }}
    return largest / steps;
}}
"""
ADD_DENSE = """\
/* y += W x */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{
    for (int32_t r = 0; r < rows; ++r) {
        SUM sum = 0;
        for (int32_t k = 0; k < columns; ++k)
            sum += (SUM)w[k] * x[k];
        w += columns;
        y[r] += RESULT(r, sum);
    }
}
"""
ADD_CSR = """\
/* y += W x, the weights that are there row by row */
static void NAME(float *y, TABLES, int32_t rows, VECTOR)
{
    for (int32_t r = 0; r < rows; ++r) {
        SUM sum = 0;
        for (uint32_t k = start[r]; k < start[r + 1]; ++k)
            sum += (SUM)w[k] * x[column[k]];
        y[r] += RESULT(r, sum);
    }
}
"""
ADD_BLOCKS = f"""\
/* y += W x, in blocks of {BLOCK} rows of a column */
static void NAME(float *y, TABLES, int32_t rows, VECTOR)
{{
    for (int32_t r = 0; r < rows; r += {BLOCK}) {{
        const int32_t count = rows - r < {BLOCK} ? rows - r : {BLOCK};
        SUM sum[{BLOCK}] = {{0}};
        for (uint32_t k = start[r / {BLOCK}]; k < start[r / {BLOCK} + 1]; ++k)
            for (int32_t j = 0; j < {BLOCK}; ++j)
                sum[j] += (SUM)w[{BLOCK} * k + (uint32_t)j] * x[column[k]];
        for (int32_t j = 0; j < count; ++j)
            y[r + j] += RESULT(r + j, sum[j]);
    }}
}}
"""
ADD_BITS = """\
/* y += W x, the weights that are there row by row, a bit for each position */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{
    for (int32_t r = 0; r < rows; ++r) {
        SUM sum = 0;
        uint32_t at = start[r];
        for (int32_t k = 0; k < columns; ++k)
            if (bits[k / 8] >> (k % 8) & 1)
                sum += (SUM)w[at++] * x[k];
        bits += (columns + 7) / 8;
        y[r] += RESULT(r, sum);
    }
}
"""
ROW_DENSE = """\
/* y = row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{
    w += (size_t)columns * (size_t)r;
    for (int32_t k = 0; k < columns; ++k)
        y[k] = ENTRY(r, w[k]);
}
"""
ROW_CSR = """\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t r)
{
    for (uint32_t k = start[r]; k < start[r + 1]; ++k)
        y[column[k]] = ENTRY(r, w[k]);
}
"""
ROW_BLOCKS = f"""\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t r)
{{
    for (uint32_t k = start[r / {BLOCK}]; k < start[r / {BLOCK} + 1]; ++k)
        y[column[k]] = ENTRY(r, w[{BLOCK} * k + (uint32_t)(r % {BLOCK})]);
}}
"""
ROW_BITS = """\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{
    uint32_t at = start[r];
    bits += (size_t)((columns + 7) / 8) * (size_t)r;
    for (int32_t k = 0; k < columns; ++k)
        if (bits[k / 8] >> (k % 8) & 1) {
            y[k] = ENTRY(r, w[at]);
            ++at;
        }
}
"""
ADD = {"dense": ADD_DENSE, "csr": ADD_CSR, "blocks": ADD_BLOCKS, "bits": ADD_BITS}
ROW = {"dense": ROW_DENSE, "csr": ROW_CSR, "blocks": ROW_BLOCKS, "bits": ROW_BITS}


class Functions:
    """The functions that a program has called so far, in the order of their definitions.

    Example:
        >>> import torch
        >>> functions = Functions("float32")
        >>> functions.product(Matrix("w", torch.ones(2, 3), "float32"), "s->pre", "x")
        ['add_dense(s->pre, w, 3, 2, x);']
        >>> list(functions.texts)
        ['add_dense']
    """

    def __init__(self, values: str) -> None:
        self.values, self.rounded = values, values != "float32"
        self.texts: dict[str, str] = {}
        self.constants: list[Constant] = []

    def product(self, matrix: Matrix, y: str, x: str) -> list[str]:
        """Statements for y += W x, both expressions for the first of the numbers."""
        name = self._of(matrix, "add", ADD)
        if not self.rounded:
            return [f"{name}({y}, {matrix.arguments()}, {matrix.rows}, {x});"]
        self.texts.setdefault("in_steps", IN_STEPS)
        return [
            f"unit = in_steps(s->q, {x}, {matrix.columns}, {literal(matrix.steps)});",
            f"{name}({y}, {matrix.arguments()}, {matrix.rows}, s->q, unit);",
        ]

    def row(self, matrix: Matrix, y: str, number: str) -> list[str]:
        """Statements for y = row of W."""
        call = f"{self._of(matrix, 'row', ROW)}({y}, {matrix.arguments()}, {number});"
        return [call] if matrix.layout == "dense" else [self.clear(y, matrix.columns), call]

    def copy(self, y: str, x: str, size: int) -> str:
        """Statement for y = x."""
        self.texts.setdefault("copy", COPY)
        return f"copy({y}, {x}, {size});"

    def clear(self, y: str, size: int) -> str:
        """Statement for y = 0."""
        self.texts.setdefault("clear", CLEAR)
        return f"clear({y}, {size});"

    def own(self, name: str, text: str, curves: tuple[str, ...] = ()) -> str:
        """The name of a function with this text, which calls "curve" (tanh) or "gate" (its logistic form)."""
        if self.rounded and curves and "curve" not in self.texts:
            self.constants.append(Constant("tanh_table", TANH))
        if "curve" in curves or (self.rounded and curves):
            self.texts.setdefault("curve", TABLE_CURVES if self.rounded else FLOAT_CURVES)
        if "gate" in curves:
            self.texts.setdefault("gate", TABLE_GATE if self.rounded else FLOAT_GATE)
        self.texts.setdefault(name, text)
        return name

    def _of(self, matrix: Matrix, verb: str, templates: dict[str, str]) -> str:
        if self.values == "int4":
            templates = ADD_OF_NIBBLES if verb == "add" else ROW_OF_NIBBLES
            self.texts.setdefault("nibble", NIBBLE)
            self.texts.setdefault("half", HALF)
        w, *others = matrix.constants
        widths = [t.type.removeprefix("uint").removesuffix("_t") for t in others if t.type.startswith("uint")]
        name = "_".join([verb, matrix.layout, *widths])
        roles = [(t.type, t.name.removeprefix(f"{matrix.name}_")) for t in others]
        tables = [f"const {w.type} *w", *(f"const {kind} *{role}" for kind, role in roles)]
        text = templates[matrix.layout].replace("NAME", name).replace("TABLES", ", ".join(tables))
        self.texts.setdefault(name, self._typed(text))
        return name

    def _typed(self, text: str) -> str:
        if self.rounded:
            text = text.replace("VECTOR", "const int16_t *x, float unit").replace("SUM", "int32_t")
        else:
            text = text.replace("VECTOR", "const float *x").replace("(SUM)", "").replace("SUM", "float")
        for call in ("RESULT(r, sum)", "RESULT(r + j, sum[j])"):
            row, value = call.removeprefix("RESULT(").removesuffix(")").split(", ")
            text = text.replace(call, f"(scale[{row}] * unit) * (float){value}" if self.rounded else value)
        return text.replace("ENTRY(r, ", "scale[r] * (float)(" if self.rounded else "(")


def curve(x: Floats) -> Floats:
    """Twin of the table's tanh.

    Example:
        >>> float(curve(np.array([0.5], dtype=np.float32))[0]) == float(np.float32(math.tanh(0.5)))
        True
    """
    place = np.minimum(np.abs(x), np.float32(END)) * np.float32(SHARE)
    k = np.minimum(place.astype(np.int32), END * SHARE - 1)
    y = TANH[k] + (place - k.astype(np.float32)) * (TANH[k + 1] - TANH[k])
    y = np.where(np.abs(x) < np.float32(END), y, np.float32(1))
    return np.where(x < 0, -y, y)


def gate(x: Floats) -> Floats:
    """Twin of the logistic function."""
    half = np.float32(0.5)
    return half * curve(half * x) + half
