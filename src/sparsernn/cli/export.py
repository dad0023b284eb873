"""`sparsernn export`: a model that runs without this library, as a graph or as plain C."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData
from sparsernn.core.checks import check_value
from sparsernn.core.limits import OneOf

if TYPE_CHECKING:
    from sparsernn.runs.run import Run

PLAIN_C = "c"
FORMATS = {"pt2": "model.pt2", "onnx": "model.onnx", PLAIN_C: "c"}
"""Format -> what is written in the run's folder if no place is given."""


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
    int8: Annotated[
        bool, typer.Option("--int8", help="For c: 8-bit weights, a factor per row, sums in whole numbers.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="For c: of files and functions; 'model' if not given."),
    ] = None,
    data: UnusedData = None,
) -> None:
    """Write one step of the model so that it runs without this library: as a graph (pt2, onnx) or as plain C (c)."""
    from sparsernn.core.errors import InputError
    from sparsernn.runs.artifacts import take_best
    from sparsernn.runs.assembly import open_weights

    if form is not None:
        check_value("--format", form, Annotated[str, OneOf(FORMATS)])
    if form != PLAIN_C and (int8 or name is not None):
        raise InputError(
            f"{'--int8' if int8 else '--name'} is for --format {PLAIN_C}; leave it out, or ask for that."
        )
    if form not in (None, PLAIN_C) and out is not None and out.suffix != f".{form}":
        raise InputError(f"--out is {str(out)!r}, which does not end in .{form} as --format {form} asks for.")
    opened = open_weights(run)
    take_best(opened)
    target = out or run / FORMATS[form or "pt2"]
    if form == PLAIN_C:
        _as_c(opened, target, int8, name)
    else:
        _as_graph(opened, target)


def _as_graph(opened: "Run", path: Path) -> None:
    from sparsernn.report.story.formats import size
    from sparsernn.runs.artifacts import export_run

    done = export_run(opened, path)
    given = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in done.inputs.items())
    print(f"{done.path}: {size(done.bytes)}, one step for any batch B")
    print(f"reads  {given}")
    print(f"Read back and compared: the largest difference from the model is {done.difference:.2g}.")


def _as_c(opened: "Run", folder: Path, int8: bool, name: str | None) -> None:
    from sparsernn.runs.artifacts import export_c

    done = export_c(opened, folder, int8=int8, **({} if name is None else {"name": name}))
    counts = {layout: list(done.layouts.values()).count(layout) for layout in done.layouts.values()}
    held = ", ".join(f"{count} {layout}" for layout, count in counts.items())
    print(f"{done.folder}: {', '.join(done.files)}")
    print(f"flash  {done.flash:,} bytes of tables (matrices: {held}); the code comes on top")
    print(f"RAM    {done.ram:,} bytes of state, in a struct of the caller")
    if int8:
        print(
            f"Rounding to 8 bits moves the model's answers by {done.moved:.2g} at most, over the golden vectors."
        )
    print(f"`make -C {done.folder} check` compiles it and compares it with the model.")
