"""`sparsernn demo`: the main job. Three small language models, what they cost and what they can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.cli.arguments import Device, with_options
from sparsernn.core.plain import Json
from sparsernn.runs.run_folders import fresh_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPES = ("demo/dense", "demo/static", "demo/selfish")
PROMPT = "the value of"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change in all three.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the runs; runs/demo if not given.")
    ] = None,
    device: Device = None,
) -> None:
    """Train and compare a dense, a static-sparse and a Selfish-sparse language model: about two minutes."""
    from sparsernn.cli.training import show_results, with_progress
    from sparsernn.experiments import complete, time_together
    from sparsernn.report import write_report
    from sparsernn.report.console import headed, output
    from sparsernn.runs.assembly import create
    from sparsernn.runs.recipe import load_recipe

    folder = out or fresh_folder("demo")
    recipes = [load_recipe(name, with_options(overrides, device)) for name in RECIPES]
    folders = [folder / recipe.name.rsplit("/", 1)[-1] for recipe in recipes]
    for recipe, place in zip(recipes, folders, strict=True):
        output().print("", headed(recipe.name, recipe.about), sep="\n")
        run = create(recipe, place)
        with_progress(run, _show_sizes)
        complete(run, PROMPT)
    time_together(folders)  # one run after the other would have met other moments of the machine
    output().print()
    show_results(*folders)
    _show_samples(folders)
    html, _ = write_report(folders, folder)
    output().print(f"\nThe whole story, with curves, masks and sizes:  {html}", soft_wrap=True)


def _show_sizes(plan: Mapping[str, Json]) -> None:
    from sparsernn.cli.console_tables import plan_lines
    from sparsernn.report.console import output

    for line in plan_lines(plan):
        output().print(f"  {line}")


def _show_samples(folders: list[Path]) -> None:
    from sparsernn.report import load_run
    from sparsernn.report.console import headed, output

    for folder in folders:
        sample = load_run(folder).last("sample")
        output().print("", headed(folder.name, "writes:"), sep="\n")
        output().print(sample["text"], markup=False, soft_wrap=True)
