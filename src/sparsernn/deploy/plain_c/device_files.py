"""A model as plain C for small devices: a folder with all that a firmware needs and a check that it is the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf, Spelling
from sparsernn.core.safe_files import replacing
from sparsernn.deploy.plain_c.const_tables import VALUES
from sparsernn.deploy.plain_c.golden_vectors import checked_by
from sparsernn.deploy.plain_c.sample_units import NoUnits, SampleUnits, Scaling
from sparsernn.deploy.plain_c.step_program import StepProgram

NAME = "model"
TAKEN = ("check", "golden", "main")
"""Names that other files and functions have."""
HEADERS = (
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdarg|"
    "stdbool|stddef|stdint|stdio|stdlib|string|tgmath|time|wchar|wctype"
)
"""The language's own (ISO/IEC 9899:1999, 7.1.2): with -I. a compiler would find ours in their place."""
KEYWORDS = (
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|for|goto|if|inline|int|long|"
    "register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|"
    "volatile|while|asm|bool|catch|class|delete|explicit|export|false|friend|mutable|namespace|new|"
    "operator|private|protected|public|template|this|throw|true|try|typeid|typename|using|virtual"
)
"""Of C, and of C++, whose programs include the header too."""
IDENTIFIER = Spelling(
    rf"(?!({'|'.join(TAKEN)}|{HEADERS}|{KEYWORDS})$)[a-z][a-z0-9_]*",
    "lower-case letters, digits and _, begin with a letter, be no word of C or C++, and not be "
    f"{', '.join(TAKEN)} or a header of C's own",
)
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class WrittenC:
    """What was written.

    Attributes:
        folder: where.
        files: their names.
        flash: bytes of the constant tables.
        ram: bytes of the state's struct.
        moved: how far rounding moves the answers at most, over some steps; 0 without.
        layouts: weight -> "dense", "blocks", "csr" or "bits".
    """

    folder: Path
    files: tuple[str, ...]
    flash: int
    ram: int
    moved: float
    layouts: dict[str, str]


def write_c(
    model: nn.Module,
    folder: str | Path,
    *,
    values: str = "float32",
    name: str = NAME,
    vocabulary: Sequence[str] = (),
    labels: Sequence[str] = (),
    scaling: Scaling | None = None,
) -> WrittenC:
    """Write one step of a model as C99 that needs nothing but libm (in 8 bits not even that) and no malloc.

    Args:
        model: see `step_program.StepProgram`. It is copied, in evaluation mode and float32; maps are computed once.
        folder: gets NAME.c, NAME.h, golden.h, check.c and a Makefile, the same bytes for the same model.
        values: "float32"; or what matrices are rounded to: "int8", with a float32 factor per row, or "int4", two
            weights in a byte and a factor of 16 bits per 64 columns of a row. All sums of rounded products are whole
            numbers, and what `make check` compares with is this arithmetic, to the bit.
        name: of functions and files: lower-case letters, digits and _, beginning with a letter.
        vocabulary: V tokens; where given, NAME_words.txt has one on each line, in their order.
        labels: of the answers; where given, NAME_labels.txt has one on each line, in their order.
        scaling: of the samples' columns and the answers; where given, NAME_scale() turns a sample in its own units
            into what a step reads, and NAME_unscale() an answer that is a number into the target's unit.

    Raises:
        InputError: a model that cannot be written, before anything is; a name that is none; a folder that is a file.

    Example:
        >>> import tempfile
        >>> from sparsernn.models.language_model import LanguageModel
        >>> done = write_c(LanguageModel(10, 4, [6]), tempfile.mkdtemp(), values="int8")
        >>> done.files
        ('model.c', 'model.h', 'golden.h', 'check.c', 'Makefile')
    """
    folder = Path(folder)
    check_value("values", values, Annotated[str, OneOf(VALUES)])
    check_value("the name", name, Annotated[str, IDENTIFIER])
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; plain C is written to a folder.")
    model = copy.deepcopy(model).cpu().float().eval()
    units = NoUnits() if scaling is None else SampleUnits(name, scaling)
    program = StepProgram(model, name, values, units)
    checks, moved = checked_by(program, model)
    files = {f"{name}.c": program.source(), f"{name}.h": program.header(), **checks}
    for kind, tokens in (("words", vocabulary), ("labels", labels)):
        if tokens:
            files[f"{name}_{kind}.txt"] = "".join(f"{_on_a_line(token)}\n" for token in tokens)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        with replacing(folder / file) as beside:
            beside.write_text(text, encoding="utf-8", newline="\n")
    layouts = {matrix.name: matrix.layout for matrix in program.matrices}
    return WrittenC(folder, tuple(files), program.flash, program.ram, moved, layouts)


def _on_a_line(token: str) -> str:
    """A token without breaks of lines: backslash, line feed, carriage return and tab as \\\\, \\n, \\r, \\t."""
    return "".join(ESCAPES.get(letter, letter) for letter in token)
