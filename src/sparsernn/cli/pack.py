"""`sparsernn pack`: the best weights of a run as one small file."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import Data, RunFolder
from sparsernn.core.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(pack)


def pack(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="RUN/packed.safetensors if not given.")
    ] = None,
    values: Annotated[str, typer.Option(help="float32, or int8 or int4 for smaller files.")] = "float32",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="For int8 and int4: choose each row's range on validation data, and score before and after.",
        ),
    ] = False,
    data: Data = None,
) -> None:
    """Write the best weights of a run as one small file: a bit per position, a number per active weight."""
    from sparsernn.report.story.formats import size, times_smaller
    from sparsernn.runs.artifacts import PACKED, pack_run, take_best
    from sparsernn.runs.assembly import open_run, open_weights
    from sparsernn.runs.rounded_scores import calibrate_run

    if calibrate and values == "float32":
        raise InputError("--calibrate is for --values int8 or int4; leave it out, or ask for one of them.")
    opened, target = open_run(run, data, "cpu") if calibrate else open_weights(run), out or run / PACKED
    take_best(opened)
    if calibrate:
        print(calibrate_run(opened, values).line())
    packed = pack_run(opened, target, values)
    dense = 4 * sum(p.numel() for p in opened.model.parameters())
    print(f"{target}: {size(packed)}, {times_smaller(packed, dense)} than {size(dense)} of dense weights")
