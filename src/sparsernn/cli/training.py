"""A training run as a person meets it: plan, progress, results, what next."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sparsernn.core.plain import Json

if TYPE_CHECKING:
    from sparsernn.runs.recipe import Recipe
    from sparsernn.runs.run import Run


def train_new(recipe: Recipe, folder: Path, data: Path | None) -> None:
    """Create a run and train it."""
    from sparsernn.runs.assembly import create

    train_together(lambda: create(recipe, folder, data))


def train_together(
    make: Callable[[], Run],
    data: Path | None = None,
    device: str | None = None,
    also: Callable[[Run], None] = lambda run: None,
) -> None:
    """Train a run to its end with all the processes that were started for it, often one.

    Args:
        make: creates the run or opens it; called by the first process, and the others open what came of it.
        data: where the data lie, if not where they lay when the run was created.
        device: where to compute, if not as the recipe says.
        also: done after that, by the first process.
    """
    from sparsernn.runs.assembly import shared_run
    from sparsernn.runs.ranks import processes

    with processes() as ranks:
        run = shared_run(ranks, make, data, device)
        (train_to_the_end if ranks.first else take_part)(run)
        if ranks.first:
            also(run)


def take_part(run: Run) -> None:
    """Train in silence, beside the process that tells what is going on."""
    from sparsernn.runs.loop import Interrupted
    from sparsernn.runs.loop import train as train_run

    try:
        train_run(run)
    except Interrupted as stop:
        raise typer.Exit(128 + stop.signal_number) from None


def show_beginning(run: Run, plan: Mapping[str, Json]) -> None:
    """Print the plan of a new run, or where an old one goes on."""
    from sparsernn.report.console import headed, output

    here = run.position
    if here.step == 0:
        show_plan(run.recipe, plan)
    else:
        steps = f"step {here.step:,} of {plan['steps']:,}"
        output().print(headed(run.recipe.name, f"goes on at {steps}, epoch {here.epoch + 1}"))


def show_plan(recipe: Recipe, plan: Mapping[str, Json]) -> None:
    """Print what a run is going to do."""
    from sparsernn.cli.console_tables import plan_lines, plan_table
    from sparsernn.report.console import headed, output

    output().print(headed(recipe.name, recipe.about))
    output().print(plan_table(plan))
    for line in plan_lines(plan):
        output().print(line)


def train_to_the_end(run: Run) -> None:
    """Train with progress on the terminal; then the results and what can be done next."""
    from sparsernn.experiments import complete
    from sparsernn.report.console import output

    with_progress(run, lambda plan: show_beginning(run, plan))
    page = complete(run)
    show_results(run.home)
    output().print(f"Curves, masks and sizes:  {page}", soft_wrap=True)
    for command, what in what_next(run):
        output().print(f"  sparsernn {command} {run.home}  ".ljust(48) + what)


def with_progress(run: Run, greet: Callable[[Mapping[str, Json]], None]) -> None:
    """Train a run to its end; when it is told to stop, say where it was saved and how to go on."""
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.loop import Interrupted
    from sparsernn.runs.loop import train as train_run

    try:
        with make_reporter(output(), run.task.metric, greet) as reporter:
            train_run(run, reporter)
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        output().print(f"Stopped by {name} at step {run.position.step:,}; saved in {run.home}.")
        output().print(f"Go on with:  sparsernn resume {run.home}")
        raise typer.Exit(128 + stop.signal_number) from None


def what_next(run: Run) -> list[tuple[str, str]]:
    """The commands that a finished run is good for, each with what it shows."""
    from sparsernn.runs.artifacts import answers_questions, has_latency, writes_text
    from sparsernn.runs.predictions import predicts_series

    able = {"generate": writes_text(run), "bench": has_latency(run), "answer": answers_questions(run)}
    able["predict"] = predicts_series(run)
    return [(command, what) for command, what in NEXT if able.get(command, True)]


def show_results(*folders: Path) -> None:
    """Print what came out of runs, side by side."""
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report import compare
    from sparsernn.report.console import output

    output().print(drawn(compare(folders)))


NEXT = (
    ("inspect", "densities per tensor and gate"),
    ("evaluate", "scores of a split"),
    ("generate", "text from the model"),
    ("bench", "time per token or step"),
    ("answer", "a question about a paragraph of yours (--paragraph, --question)"),
    ("predict", "labels or numbers for a file of yours, as CSV (FILE, --out CSV)"),
)
