"""`sparsernn bench`: how long a model takes per token."""

from typing import Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData
from sparsernn.core.checks import check_value
from sparsernn.core.limits import Spelling


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(bench)


def bench(
    run: RunFolder,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Texts read at once, 1 to 16; 1,4 for both.")
    ] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 15,
    data: UnusedData = None,
) -> None:
    """Measure milliseconds per token: torch, onnxruntime where it is there, and the forms of our runtime, in turns.

    A run that has ended keeps the figures for its report.
    """
    from sparsernn.cli.console_tables import latency_rows
    from sparsernn.report import load_run
    from sparsernn.report.console import output
    from sparsernn.runs.artifacts import gains, measure, reads_tokens, require, take_best
    from sparsernn.runs.assembly import open_weights

    opened = open_weights(run)
    require(reads_tokens(opened), opened, "measuring the time per token")
    take_best(opened)
    measured = measure(opened, _batches(batch_size), repeats, graph=True)
    output().print(latency_rows(measured))
    for sentence in gains(measured):
        output().print(sentence, soft_wrap=True)
    if load_run(run).of("test"):
        opened.events.append(measured)
    else:  # what is written beyond the last checkpoint, a resumed run forgets
        output().print("Not kept: the report takes these figures once the run has ended.", soft_wrap=True)


_NUMBERS = Spelling(r"[\s,]*(0*([1-9]|1[0-6])([\s,]+|$))+", "numbers from 1 to 16, such as 1 or 1,4")


def _batches(text: str) -> tuple[int, ...]:
    check_value("--batch-size", text, Annotated[str, _NUMBERS])
    return tuple(int(word) for word in text.replace(",", " ").split())
