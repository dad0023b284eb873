"""`sparsernn finetune`: a new run that starts from the best weights of another."""

import typer

from sparsernn.cli.arguments import Data, Device, Out, Overrides, RunFolder, with_device
from sparsernn.cli.training import train_to_the_end
from sparsernn.runs.run_folders import fresh_folder


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(finetune)


def finetune(
    run: RunFolder,
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    device: Device = None,
) -> None:
    """Train on from the best weights of a run, with averaging from the first step and masks that stay.

    A run with group lasso or L1 goes on without the penalty, with its own optimizer, and what is 0 stays 0.
    Can be repeated on its own result. Where no epoch beats the weights that it started from, they stay the best.
    """
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.finetuning import next_name, start

    folder = out or fresh_folder(next_name(run.name))
    with make_reporter(output(), "") as reporter:
        changes = with_device(overrides, device)
        new = start(run, folder, changes, data, lambda done: reporter.phase("valid", done))
    before = new.position.best
    output().print(
        f"To beat: {before:.4f} on the validation split, by the best weights of {run}", soft_wrap=True
    )
    train_to_the_end(new)
    if not new.position.best < before:
        output().print(
            "Finetuning did not help: no epoch beat the weights that it started from; they are kept."
        )
