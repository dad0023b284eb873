"""`sparsernn finetune`: a new run that starts from the best weights of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from sparsernn.cli.arguments import Data, Device, Log, Out, Overrides, Precision, RunFolder, with_options
from sparsernn.cli.training import train_together
from sparsernn.runs.run_folders import fresh_folder

if TYPE_CHECKING:
    from sparsernn.runs.run import Run


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(finetune)


def finetune(
    run: RunFolder,
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    device: Device = None,
    precision: Precision = None,
    log: Log = None,
) -> None:
    """Train on from the best weights of a run, with averaging from the first step and masks that stay.

    A run with group lasso or L1 goes on without the penalty, with its own optimizer, and what is 0 stays 0.
    Can be repeated on its own result. Where no epoch beats the weights that it started from, they stay the best.
    """
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.finetuning import next_name, start

    to_beat: list[float] = []

    def begin() -> Run:
        folder = out or fresh_folder(next_name(run.name))
        with make_reporter(output(), "") as reporter:
            changes = with_options(overrides, device, log, precision)
            new = start(run, folder, changes, data, lambda done: reporter.phase("valid", done))
        to_beat.append(new.position.best)
        output().print(
            f"To beat: {to_beat[0]:.4f} on the validation split, by the best weights of {run}", soft_wrap=True
        )
        return new

    def judge(new: Run) -> None:
        if not new.position.best < to_beat[0]:
            output().print(
                "Finetuning did not help: no epoch beat the weights that it started from; they are kept."
            )

    train_together(begin, also=judge)
