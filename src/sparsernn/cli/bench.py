"""`sparsernn bench`: how long a model takes per token, time step or window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.cli.arguments import Runs, UnusedData, WeightsDevice
from sparsernn.core.checks import check_value
from sparsernn.core.limits import Spelling

if TYPE_CHECKING:
    from sparsernn.core.plain import Json
    from sparsernn.runs.run import Run

TIMED = "a language model, a sequence model or a tagger"
"""What has a time per step."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(bench)


def bench(
    runs: Runs,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Sequences read at once, 1 to 16; 1,4 for both.")
    ] = "1",
    window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Time steps read in one call; left out: one, of a tagger a sentence of 20 words."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 15,
    device: WeightsDevice = "cpu",
    data: UnusedData = None,
) -> None:
    """Measure milliseconds per token or time step: torch, onnxruntime where it is there, and our forms, in turns.

    Of several runs all take turns with each other. With --device cuda, torch on that device takes part. A run that
    has ended keeps the figures for its report, but not those of windows that are asked for.
    """
    from sparsernn.cli.console_tables import latency_rows
    from sparsernn.core.devices import chosen
    from sparsernn.report.console import output
    from sparsernn.runs.artifacts import gains, has_latency, measure_together, require, take_best
    from sparsernn.runs.assembly import open_weights

    there = chosen(device)
    opened = [open_weights(run) for run in runs]
    for run in opened:
        require(has_latency(run), run, "measuring the time per token", TIMED)
        take_best(run)
    records = measure_together(opened, _batches(batch_size), repeats, True, window, there)
    for run, measured in zip(opened, records, strict=True):
        output().print(latency_rows(measured, str(run.home) if len(opened) > 1 else None))
        for sentence in gains(measured):
            output().print(sentence, soft_wrap=True)
        if window is None:
            _keep(run, measured)


def _keep(run: Run, measured: dict[str, Json]) -> None:
    from sparsernn.report import load_run
    from sparsernn.report.console import output

    if load_run(run.home).of("test"):
        run.events.append(measured)
    else:  # what is written beyond the last checkpoint, a resumed run forgets
        output().print("Not kept: the report takes these figures once the run has ended.", soft_wrap=True)


_NUMBERS = Spelling(r"[\s,]*(0*([1-9]|1[0-6])([\s,]+|$))+", "numbers from 1 to 16, such as 1 or 1,4")


def _batches(text: str) -> tuple[int, ...]:
    check_value("--batch-size", text, Annotated[str, _NUMBERS])
    return tuple(int(word) for word in text.replace(",", " ").split())
