"""`sparsernn train`: from a recipe to a run folder."""

from typing import Annotated

import typer

from sparsernn.cli.arguments import Data, Device, DryRun, Log, Out, Overrides, Precision, with_options
from sparsernn.cli.training import show_plan, train_new
from sparsernn.runs.run_folders import fresh_folder


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="See `sparsernn recipes`.")],
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    device: Device = None,
    precision: Precision = None,
    log: Log = None,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe. KEY=VALUE changes any setting by its dotted path: epochs=3 optimizer.lr=10."""
    from sparsernn.runs.recipe import load_recipe

    loaded = load_recipe(recipe, with_options(overrides, device, log, precision))
    if dry_run:
        from sparsernn.runs.assembly import assemble
        from sparsernn.runs.plan import plan
        from sparsernn.runs.warm_start import take_synthesizer

        run = assemble(loaded, data)
        take_synthesizer(run)
        show_plan(loaded, plan(run))
    else:
        train_new(loaded, out or fresh_folder(loaded.name), data)
