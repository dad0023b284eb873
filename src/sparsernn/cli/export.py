"""`sparsernn export`: a model as a graph that runs without this library."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(export)


def export(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="RUN/model.pt2 if not given; FILE.onnx for ONNX."),
    ] = None,
    data: UnusedData = None,
) -> None:
    """Write one step of the model as a graph, ONNX or torch's own, that runs without this library."""
    from sparsernn.report.story.formats import size
    from sparsernn.runs.artifacts import export_run, take_best
    from sparsernn.runs.assembly import open_weights

    opened = open_weights(run)
    take_best(opened)
    done = export_run(opened, out or run / "model.pt2")
    given = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in done.inputs.items())
    print(f"{done.path}: {size(done.bytes)}, one step for any batch B")
    print(f"reads  {given}")
    print(f"Read back and compared: the largest difference from the model is {done.difference:.2g}.")
