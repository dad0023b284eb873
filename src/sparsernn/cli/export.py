"""`sparsernn export`: a model that runs without this library, as a graph or as plain C."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.cli.arguments import Data, RunFolder
from sparsernn.core.checks import check_value
from sparsernn.core.limits import OneOf
from sparsernn.core.plain import Json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sparsernn.runs.run import Run

PLAIN_C = "c"
FORMATS = {"pt2": "model.pt2", "onnx": "model.onnx", PLAIN_C: "c"}
"""Format -> what is written in the run's folder if no place is given."""

GRAPHS = {"step": "one step for any batch B", "sequence": "whole sequences of any length T in any batch B"}
"""What a graph can be of, and how that is said."""

COMPARED = {"step": "the same rounded weights under exact inputs", "sequence": "the model in float32"}
"""What a rounded graph is held against."""

Graphs = Annotated[
    str | None,
    typer.Option(
        "--graph",
        metavar="GRAPH",
        help="For pt2 and onnx: step (one step and its state, the default) or sequence (ragged batches of whole "
        "sequences of any length, by taggers and BiDAF too).",
    ),
]
Opset = Annotated[
    int | None,
    typer.Option("--opset", metavar="N", help="For onnx: version of the operators, 13 to 23; usually 18."),
]

Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="For c and onnx: 8-bit weights, a factor per row, sums in whole numbers; in onnx one step of a "
        "language model, or any model over whole sequences, for onnxruntime.",
    ),
]
Int4 = Annotated[
    bool,
    typer.Option(
        "--int4",
        help="The same with 4-bit weights, two in a byte, and a factor for each 64 columns of a row.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="With --int8 or --int4: choose each row's range on validation data, and score before and after.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(export)


def export(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE|DIR",
            help="A file that ends in .pt2 or .onnx, or a folder for C; if not given, RUN/model.pt2, "
            "RUN/model.onnx or RUN/c.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="pt2 (for torch.export.load), onnx (needs the extra 'onnx') or c (C99 for small devices, libm "
            "alone); if not given, what --out ends in, or pt2.",
        ),
    ] = None,
    graph: Graphs = None,
    opset: Opset = None,
    int8: Int8 = False,
    int4: Int4 = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="For c: of files and functions; 'model' if not given."),
    ] = None,
    calibrate: Calibrate = False,
    data: Data = None,
) -> None:
    """Write the model so that it runs without this library: as a graph (pt2, onnx), or one step as plain C (c)."""
    from sparsernn.core.errors import InputError
    from sparsernn.runs.artifacts import take_best
    from sparsernn.runs.assembly import open_run, open_weights
    from sparsernn.runs.rounded_scores import calibrate_run

    _check(form, out, graph, opset, name)
    values = _values(int8, int4)
    rounded_graph = values != "float32" and form != PLAIN_C
    if rounded_graph:
        _check_rounded(form, out, graph, values)
    if calibrate and values == "float32":
        raise InputError("--calibrate is for --int8 or --int4; leave it out, or ask for one of them.")
    if calibrate:
        opened = open_run(run, data, "cpu")
    else:
        opened = _open_with_text(run, data) if rounded_graph else open_weights(run)
    take_best(opened)
    if calibrate:
        print(calibrate_run(opened, values).line())
    target = out or run / FORMATS[form or "pt2"]
    if form == PLAIN_C:
        _as_c(opened, target, values, name)
    elif rounded_graph:
        _as_rounded_graph(opened, target, opset, values, graph or "step")
    else:
        _as_graph(opened, target, graph or "step", opset)


def _open_with_text(run: Path, data: Path | None) -> "Run":
    """With its data, to be scored on, where they are; without where they are not and nobody said where."""
    from sparsernn.runs.assembly import MissingData, open_run, open_weights

    try:
        return open_run(run, data, "cpu")
    except MissingData:
        if data is not None:
            raise
        return open_weights(run)


def _values(int8: bool, int4: bool) -> str:
    """What weights are rounded to; refuses both at once."""
    from sparsernn.core.errors import InputError

    if int8 and int4:
        raise InputError("--int8 and --int4 exclude each other; leave one of the two out.")
    return "int8" if int8 else "int4" if int4 else "float32"


def _check_rounded(form: str | None, out: Path | None, graph: str | None, values: str) -> None:
    """Refuse 8 or 4 bits where a graph cannot have them."""
    from sparsernn.core.errors import InputError

    if form != "onnx" and (form is not None or out is None or out.suffix != ".onnx"):
        raise InputError(
            f"--{values} is for --format {PLAIN_C} or onnx; leave it out, or ask for one of them."
        )
    if graph == "sequence" and values == "int4":
        raise InputError(
            "--int4 in onnx is for --graph step: over whole sequences its operator is slower than float32; "
            "use --int8, or leave --graph out."
        )


def _check(
    form: str | None, out: Path | None, graph: str | None, opset: int | None, name: str | None
) -> None:
    """Refuse options that do not go together."""
    from sparsernn.core.errors import InputError

    if form is not None:
        check_value("--format", form, Annotated[str, OneOf(FORMATS)])
    if graph is not None:
        check_value("--graph", graph, Annotated[str, OneOf(GRAPHS)])
    if form != PLAIN_C and name is not None:
        raise InputError(f"--name is for --format {PLAIN_C}; leave it out, or ask for that.")
    if form == PLAIN_C and (graph is not None or opset is not None):
        raise InputError(
            f"{'--opset' if graph is None else '--graph'} is for --format onnx or pt2; leave it out with {PLAIN_C}."
        )
    if form not in (None, PLAIN_C) and out is not None and out.suffix != f".{form}":
        raise InputError(f"--out is {str(out)!r}, which does not end in .{form} as --format {form} asks for.")


def _as_graph(opened: "Run", path: Path, graph: Json, opset: int | None) -> None:
    from sparsernn.report.story.formats import size
    from sparsernn.runs.artifacts import export_run

    done = export_run(opened, path, graph, opset)
    print(f"{done.path}: {size(done.bytes)}, {GRAPHS[graph]}")
    print(f"reads  {_listed(done.inputs)}")
    print(f"gives  {_listed(done.outputs)}")
    print(f"Read back and compared: the largest difference from the model is {done.difference:.2g}.")


def _as_rounded_graph(opened: "Run", path: Path, opset: int | None, values: str, graph: str) -> None:
    from sparsernn.report.story.formats import size, times_smaller
    from sparsernn.runs.rounded_export import export_rounded_run

    done, told = export_rounded_run(opened, path, opset, values, graph)
    dense = 4 * sum(p.numel() for p in opened.model.parameters())
    print(
        f"{done.path}: {size(done.bytes)}, {times_smaller(done.bytes, dense)} than in float32; {GRAPHS[graph]}"
    )
    print(f"reads  {_listed(done.inputs)}")
    print(f"gives  {_listed(done.outputs)}")
    print(f"Read back and compared with {COMPARED[graph]}: the largest difference is {done.difference:.2g}.")
    print(told)


def _listed(values: "Mapping[str, Sequence[int | str]]") -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in values.items())


def _as_c(opened: "Run", folder: Path, values: str, name: str | None) -> None:
    from sparsernn.runs.artifacts import export_c

    done = export_c(opened, folder, values=values, **({} if name is None else {"name": name}))
    counts = {layout: list(done.layouts.values()).count(layout) for layout in done.layouts.values()}
    held = ", ".join(f"{layout} {count}" for layout, count in counts.items())
    print(f"{done.folder}: {', '.join(done.files)}")
    print(f"flash  {done.flash:,} bytes of tables (matrices by layout: {held}); the code comes on top")
    print(f"RAM    {done.ram:,} bytes of state, in a struct of the caller")
    if values != "float32":
        print(
            f"Rounding to {values[-1]} bits moves the model's answers by {done.moved:.2g} at most, "
            "over the golden vectors."
        )
    print(f"`make -C {done.folder} check` compiles it and compares it with the model.")
