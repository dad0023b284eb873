"""`sparsernn resume`: on with a run that was stopped."""

import typer

from sparsernn.cli.arguments import Data, Device, RunFolder
from sparsernn.cli.training import train_together


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(resume)


def resume(run: RunFolder, data: Data = None, device: Device = None) -> None:
    """Go on with a run that was stopped, exactly where it was."""
    from sparsernn.report import load_run
    from sparsernn.runs.assembly import open_run

    if load_run(run).is_complete:
        print(f"{run} is complete; to train on from its best weights: sparsernn finetune {run}")
        return
    train_together(lambda: open_run(run, data, device), data, device)
