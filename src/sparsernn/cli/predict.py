"""`sparsernn predict`: what a trained model of series says of a file of yours."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData, WeightsDevice
from sparsernn.core.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(predict)


def predict(
    run: RunFolder,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A table with the columns that the run was trained on.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="CSV", help="Where to write; printed if not given.")
    ] = None,
    data: UnusedData = None,
    device: WeightsDevice = "cpu",
) -> None:
    """Predict the labels or numbers of a file of series, by the best weights of a run, as CSV."""
    from sparsernn.core.safe_files import replacing
    from sparsernn.runs.artifacts import take_best
    from sparsernn.runs.assembly import open_weights
    from sparsernn.runs.predictions import predict_file

    if out is not None and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise InputError(f"--out is '{out}'; it must be a file in a folder that exists.")
    opened = open_weights(run, device)
    take_best(opened)
    made = predict_file(opened, file)
    if out is None:
        print(made, end="")
        return
    with replacing(out) as beside:
        beside.write_text(made, encoding="utf-8", newline="")
