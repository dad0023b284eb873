"""A model as one step in C: what is computed, the text of the two files, and the twin of the rounded step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.deploy.plain_c.c_functions import Functions
from sparsernn.deploy.plain_c.const_tables import Constant, Floats, Matrix, vector
from sparsernn.deploy.plain_c.layer_parts import Part, State, part_of
from sparsernn.deploy.plain_c.sample_units import NoUnits
from sparsernn.nn import Embedding, LinearHead

FLOAT = 4
LARGEST_TABLES = 16 * 2**20
"""Bytes; above any small device, and about 80 MB of text."""


class StepProgram:
    """One step of a model as C, with its state in a struct of the caller.

    Args:
        model: a language model with an embedding of rows and a linear head (tied or not), or a sequence model; layers
            as in `layer_parts.PARTS`.
        name: of the functions, the struct and the files.
        values: "float32", or "int8" or "int4", what matrices are rounded to.
        units: functions between numbers in their own units and the model's.

    Attributes:
        words: whether a step reads a word (else a sample).
        inputs: V, or I.
        outputs: V, or what the read-out gives.
        flash: bytes of all tables.
        ram: bytes of the struct.

    Raises:
        InputError: anything else, weights that are not finite, or more than 16 MiB of tables.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> program = StepProgram(SequenceModel(3, 2, [4], layer="gru"), "model")
        >>> program.flash, program.ram
        (472, 112)
    """

    def __init__(
        self, model: nn.Module, name: str, values: str = "float32", units: NoUnits | None = None
    ) -> None:
        parts: Any = _readable(model)
        self.name, self.rounded, self.words = name, values != "float32", parts.reads == "words"
        self.units = units or NoUnits()
        self.parts: list[Part] = [part_of(layer, k, values) for k, layer in enumerate(parts.layers.members)]
        last = parts.head if self.words else parts.output
        self.embedding = Matrix("embedding", parts.embedding.weight, values) if self.words else None
        tied = self.embedding is not None and last.weight is parts.embedding.weight
        self.head: Matrix = self.embedding if self.embedding and tied else Matrix("head", last.weight, values)
        self.bias = vector("head_bias", last.bias)
        self.inputs = self.embedding.rows if self.embedding else parts.layers.members[0].input_size
        self.outputs = self.head.rows
        self.matrices = [m for m in (self.embedding, *_matrices(self.parts)) if m]
        self.matrices += [] if tied else [self.head]
        self.functions = Functions(values)
        self.statements = self._statements()
        self.constants: list[Constant] = [
            *self.functions.constants,
            *(table for matrix in self.matrices for table in matrix.constants),
            *(table for part in self.parts for table in part.vectors),
            self.bias,
            *self.units.constants,
        ]
        self.flash = sum(table.bytes for table in self.constants)
        if self.flash > LARGEST_TABLES:
            raise InputError(
                f"the weights take {self.flash} bytes, which is no small device; "
                f"plain C is for {LARGEST_TABLES} at most."
            )

    @property
    def floats(self) -> dict[str, int]:
        """Fields of the struct, each of so many floats."""
        state = {field: size for part in self.parts for field, size in part.fields.items()}
        read = {"x": self.embedding.columns} if self.embedding else {}
        return {**state, **read, "pre": max(part.scratch for part in self.parts)}

    @property
    def width(self) -> int:
        """16-bit numbers of the field q, an even number of them; 0 without rounding."""
        widest = max(matrix.columns for matrix in (*_matrices(self.parts), self.head))
        return widest + widest % 2 if self.rounded else 0

    @property
    def ram(self) -> int:
        """Bytes of the struct."""
        return FLOAT * sum(self.floats.values()) + 2 * self.width

    @property
    def _reads(self) -> str:
        return "int32_t word" if self.words else "const float *x"

    def _statements(self) -> list[str]:
        lines, x = [], "x"
        if self.embedding:
            lines, x = self.functions.row(self.embedding, "s->x", "word"), "s->x"
        for part in self.parts:
            lines += part.statements(self.functions, x)
            x = f"s->{part.output}"
        lines.append(self.functions.copy("y", self.bias.name, self.outputs))
        return lines + self.functions.product(self.head, "y", x)

    def _reset(self) -> list[str]:
        lines = []
        for part in self.parts:
            for field, size in part.fields.items():
                start = part.starts.get(field)
                fill, zero = self.functions.copy, self.functions.clear
                lines.append(fill(f"s->{field}", start.name, size) if start else zero(f"s->{field}", size))
        return lines

    def header(self) -> str:
        """The text of NAME.h."""
        name, guard = self.name, self.name.upper()
        fields = [f"    float {field}[{size}];" for field, size in self.floats.items()]
        fields += [f"    int16_t q[{self.width}];"] if self.rounded else []
        if self.words:
            read = f"Reads a word, 0 to {self.inputs - 1}; the scores of the next one, before the softmax, go to y."
            returns, told = "int", "\n   Returns 0, or -1 for a word that is none, and then does nothing."
        else:
            read = "Reads a sample x and puts the answer in y."
            returns, told = "void", ""
        sizes = {"INPUTS": self.inputs, "OUTPUTS": self.outputs}
        sizes = {"WORDS" if self.words and k == "INPUTS" else k: size for k, size in sizes.items()}
        defined = [f"#define {guard}_{key} {size}" for key, size in sizes.items()]
        return "\n".join(
            [
                f"#ifndef {guard}_H",
                f"#define {guard}_H",
                "",
                "#include <stdint.h>",
                "",
                *defined,
                f"#define {guard}_FLASH_BYTES {self.flash} /* constant tables; the code comes on top */",
                f"#define {guard}_RAM_BYTES {self.ram} /* the struct; y and a little stack come on top */",
                "",
                "#ifdef __cplusplus",
                'extern "C" {',
                "#endif",
                "",
                "/* One stream. Yours, and all that a step writes to but y. */",
                "typedef struct {",
                *fields,
                f"}} {name}_state;",
                "",
                "/* Before the first step of a stream. */",
                f"void {name}_reset({name}_state *s);",
                "",
                f"/* {read}{told} */",
                f"{returns} {name}_step({name}_state *s, {self._reads}, float y[{self.outputs}]);",
                "",
                *self.units.declarations,
                "#ifdef __cplusplus",
                "}",
                "#endif",
                "",
                "#endif",
                "",
            ]
        )

    def source(self) -> str:
        """The text of NAME.c."""
        name, reset = self.name, _indented(self._reset())
        begin = _indented([f"if (word < 0 || word >= {self.inputs})", "    return -1;"] if self.words else [])
        begin = "    float unit;\n" + begin if self.rounded else begin
        end = "    return 0;\n" if self.words else ""
        returns = "int" if self.words else "void"
        return "\n".join(
            [
                f'#include "{name}.h"',
                "",
                "#include <stddef.h>",
                *([] if self.rounded else ["#include <math.h>"]),
                "",
                *(EXACT if self.rounded else []),
                f"typedef char {name}_has_the_size_that_the_header_says",
                f"    [sizeof({name}_state) == {name.upper()}_RAM_BYTES ? 1 : -1];",
                "",
                *(table.text() for table in self.constants),
                *self.functions.texts.values(),
                *self.units.definitions,
                f"void {name}_reset({name}_state *s)\n{{\n{reset}}}",
                "",
                f"{returns} {name}_step({name}_state *s, {self._reads}, float y[{self.outputs}])",
                f"{{\n{begin}{_indented(self.statements)}{end}}}",
                "",
            ]
        )

    def start(self) -> State:
        """The twin's state before the first step."""
        state = {}
        for part in self.parts:
            for field, size in part.fields.items():
                begin = part.starts.get(field)
                state[field] = begin.values.copy() if begin else np.zeros(size, np.float32)
        return state

    def twin(self, state: State, x: Floats) -> Floats:
        """A rounded step, to the bit, which changes the state: a word or a sample (I,) float32 -> (outputs,)."""
        x = self.embedding.row(int(x)) if self.embedding else x
        for part in self.parts:
            part.twin(state, x)
            x = state[part.output]
        y = self.bias.values.copy()
        self.head.add(y, x)
        return y


EXACT = [
    "/* Fused or reordered operations would change the last bits. */",
    "#if defined(__clang__)",
    "#pragma STDC FP_CONTRACT OFF",
    "#elif defined(__GNUC__)",
    '#pragma GCC optimize ("fp-contract=off")',
    "#endif",
    "",
]


def _matrices(parts: list[Part]) -> list[Matrix]:
    return [matrix for part in parts for matrix in part.matrices]


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)


def _readable(model: nn.Module) -> Model:
    if not isinstance(model, Model) or model.reads == "sequences":
        raise InputError(
            f"a {type(model).__name__} reads whole sequences, so it cannot be written as one step in C; "
            "language models and sequence models can."
        )
    parts: Any = model
    if model.reads == "words":
        for part, kind in ((parts.embedding, Embedding), (parts.head, LinearHead)):
            if type(part) is not kind:
                raise InputError(
                    f"the model has a {type(part).__name__}, which cannot be written as plain C; "
                    "the embedding 'dense' and the head 'linear' can."
                )
    elif type(getattr(model, "output", None)) is not nn.Linear:
        raise InputError(
            f"a {type(model).__name__} has no linear read-out 'output', so it cannot be written as plain C."
        )
    return model


@torch.no_grad()
def scores(model: Any, inputs: Tensor) -> Floats:
    """What the model itself says at each of the inputs, (T,) int64 or (T, I), from its start: (T, outputs)."""
    training = model.training
    model.eval()
    raw = model(inputs.unsqueeze(1)).raw[:, 0]
    found: Floats = (model.head.logits(raw) if model.reads == "words" else model.read_out(raw)).numpy()
    model.train(training)
    return found
