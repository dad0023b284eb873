"""`sparsernn recipes`: every experiment, one of them in full, or a copy to change."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sparsernn.core.errors import InputError

commands = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    app.add_typer(commands, name="recipes", help="List the experiments; show or copy one.")


@commands.callback()
def recipes(context: typer.Context) -> None:
    """List the experiments that come with the package."""
    if context.invoked_subcommand is None:
        from sparsernn.cli.console_tables import recipes_table
        from sparsernn.report.console import output
        from sparsernn.runs.recipe import list_recipes, load_recipe

        output().print(recipes_table([load_recipe(name) for name in list_recipes()], output().width))
        output().print("Run one:  sparsernn train NAME --data FOLDER     see its plan first:  --dry-run")


@commands.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name or file.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="With everything that it inherits.")] = False,
) -> None:
    """Print a recipe as it is written, or with everything that it inherits."""
    from sparsernn.runs.recipe import load_recipe, recipe_text

    print(load_recipe(name).to_yaml() if resolved else recipe_text(name), end="")


@commands.command()
def copy(
    name: Annotated[str, typer.Argument(help="A recipe's name.")],
    to: Annotated[Path | None, typer.Argument(help="The file to write; NAME.yaml here if not given.")] = None,
) -> None:
    """Write a recipe into a file of yours, complete, ready to be changed and trained."""
    from dataclasses import replace

    from sparsernn.runs.recipe import load_recipe

    original = load_recipe(name)
    target = to or Path(f"{original.name.replace('/', '-')}.yaml")
    if target.exists():
        raise InputError(f"'{target}' exists already; give another file: sparsernn recipes copy {name} FILE.")
    # A copy is made to be changed: what was published for the original is not its own.
    recipe = replace(original, name=target.stem, command="", published={}, obtained={})
    target.write_text(recipe.to_yaml(), encoding="utf-8")
    print(f"{target}: change it, then  sparsernn train {target}")


@commands.command()
def settings(
    kind: Annotated[str | None, typer.Argument(help="model, layer, task ...; all if not given.")] = None,
    name: Annotated[str | None, typer.Argument(help="One component; all of the kind if not given.")] = None,
) -> None:
    """Print what a recipe may set: each setting's range, its default, and what it means."""
    from sparsernn import catalogue
    from sparsernn.cli.console_tables import table
    from sparsernn.report.console import output

    if kind is None:
        made = table("kind", "components")
        for each, shelf in catalogue.KINDS.items():
            made.add_row(each, ", ".join(shelf.registry))
        output().print(made)
        return
    catalogue.known(kind, name)
    for member in [name] if name else catalogue.members(kind):
        made = table(*catalogue.HEADINGS, title=f"{kind} {member}")
        for row in catalogue.rows(kind, member):
            made.add_row(*map(escape, row))
        output().print(made)
