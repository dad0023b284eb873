"""`sparsernn report`: the page about one run or several."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import Runs


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to; the run's own if not given."),
    ] = None,
) -> None:
    """Write report.html and report.md about a run, or a comparison of several."""
    from sparsernn.report import write_report

    target = out or (runs[0] if len(runs) == 1 else Path("comparison"))
    for path in write_report(runs, target):
        print(path)
