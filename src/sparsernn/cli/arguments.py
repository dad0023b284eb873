"""Arguments and options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The corpus' folder.")]
UnusedData = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Not needed: the weights are enough.", hidden=True),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder; runs/NAME if not given.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")]
