"""`sparsernn train`, `resume`, `finetune`: from a recipe to a run folder."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of the corpus, when it is not the recipe's.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="See `sparsernn recipes`.")],
    overrides: Overrides = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train a recipe. KEY=VALUE changes any setting by its dotted path: epochs=3 optimizer.lr=10."""
    from sparsernn.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        _print_plan(loaded, data)
        return
    raise NotImplementedError(out)


def _print_plan(recipe, data) -> None:
    from sparsernn.assemble import assemble
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import plan_lines, plan_table
    from sparsernn.training.run import plan

    planned = plan(assemble(recipe, data))
    output().print(plan_table(planned))
    for line in plan_lines(planned):
        output().print(line)
