"""`sparsernn train`, `resume`, `finetune`: from a recipe to a run folder."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparsernn.recipe import Recipe
    from sparsernn.training.run import Run

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The corpus' folder.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder; runs/NAME if not given.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(train)
    app.command()(resume)


def train(
    recipe: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="See `sparsernn recipes`.")],
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe. KEY=VALUE changes any setting by its dotted path: epochs=3 optimizer.lr=10."""
    from sparsernn.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        from sparsernn.assemble import assemble

        show_plan(loaded, assemble(loaded, data))
        return
    train_new(loaded, fresh(loaded, out), data)


def resume(run: RunFolder, data: Data = None) -> None:
    """Go on with a run that was stopped, exactly where it was."""
    from sparsernn.assemble import open_run

    opened = open_run(run, data)
    train_to_the_end(opened)


def fresh(recipe: Recipe, out: Path | None) -> Path:
    """The folder of a new run of `recipe`."""
    from sparsernn.cli.folders import fresh_folder

    return fresh_folder(recipe.name, out)


def train_new(recipe: Recipe, folder: Path, data: Path | None) -> None:
    """Create a run, print what it is going to do, and do it."""
    from sparsernn.assemble import create

    run = create(recipe, folder, data)
    show_plan(recipe, run)
    train_to_the_end(run)


def show_plan(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Print what a run is going to do."""
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import plan_lines, plan_table
    from sparsernn.plan import plan

    planned = plan(run)
    output().print(f"[bold]{recipe.name}[/bold]  {recipe.about}")
    output().print(plan_table(planned))
    for line in plan_lines(planned):
        output().print(line)
    return planned


def train_to_the_end(run: Run) -> None:
    """Train with progress on the terminal; then the results and what can be done next."""
    from sparsernn.cli.console import output
    from sparsernn.cli.progress import make_reporter
    from sparsernn.training.loop import Interrupted
    from sparsernn.training.loop import train as train_run

    try:
        with make_reporter(output(), run.task.metric) as reporter:
            train_run(run, reporter)
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        output().print(f"Stopped by {name} at step {run.position.step:,}; saved in {run.home}.")
        output().print(f"Go on with:  sparsernn resume {run.home}")
        raise typer.Exit(128 + stop.signal_number) from None
    show_results(run.home)


def show_results(folder: Path) -> None:
    """Print what came out of a run and the commands that go on from here."""
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import drawn
    from sparsernn.report import compare

    output().print(drawn(compare([folder])))
    for command, what in NEXT:
        output().print(f"  sparsernn {command} {folder}".ljust(48) + what)


NEXT = (
    ("report", "a page with curves, masks and sizes"),
    ("inspect", "densities per tensor and gate"),
    ("generate", "text from the model"),
    ("bench", "time per token"),
)
