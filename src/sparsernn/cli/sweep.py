"""`sparsernn sweep`: many runs of one recipe, on as many machines as one starts workers on."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import Data, Device, Log, with_options
from sparsernn.core.errors import InputError

Trials = Annotated[
    int | None,
    typer.Option(
        "--trials", "--search", help="Search: how many settings to try, chosen by what was found before."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sweep)


def sweep(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[NAME_OR_FILE]", help="See `sparsernn recipes`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUES]...",
            help="What to try: optimizer.lr='[10, 20]', or with --trials loguniform(1, 100), uniform(0, 1), "
            "integer(1, 5). A single value is set in all runs.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs per setting, each with a seed of its own.")] = 1,
    trials: Trials = None,
    prune: Annotated[bool, typer.Option("--prune", help="Stop runs that are behind the median.")] = False,
    workers: Annotated[int, typer.Option(help="Processes here; 0 leaves the work to those who join.")] = 1,
    join: Annotated[str | None, typer.Option("--join", metavar="URL", help="Work on a sweep.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="The database; a SQLite file in DIR if not given.")
    ] = None,
    heartbeat: Annotated[int, typer.Option(help="Seconds between signs of life of a worker.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the runs; runs/NAME-sweep if not given."),
    ] = None,
    data: Data = None,
    device: Device = None,
    log: Log = None,
) -> None:
    """Train a recipe under many settings and seeds; more workers may join, here or on other machines."""
    if (join is None) == (recipe is None):
        raise InputError("a sweep needs either a recipe or --join URL, and not both.")
    if join is not None:
        _join(join)
        return
    from sparsernn.experiments import sweep as start
    from sparsernn.report.console import output

    fixed, tried = _divided(settings or [])
    made = start(
        str(recipe),
        tried,
        with_options(fixed, device, log),
        seeds=seeds,
        trials=trials,
        workers=0,
        out=out,
        data=data,
        storage=storage,
        prune=prune,
        heartbeat=heartbeat,
    )
    output().print(
        f"{made.left} to run; more workers may join:  sparsernn sweep --join {made.url}", soft_wrap=True
    )
    _join(made.url) if workers == 1 else made.run(workers)
    _show(made.url)


def _divided(settings: list[str]) -> tuple[list[str], list[str]]:
    """What all runs have in common, and what is tried: lists and ranges."""
    tried = [word for word in settings if word.partition("=")[2].strip("'\" ").endswith(("]", ")"))]
    return [word for word in settings if word not in tried], tried


def _join(url: str) -> None:
    from sparsernn.experiments import Sweep
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.interruption import Interrupted

    made = Sweep(url)
    try:
        with make_reporter(output(), "") as reporter:
            made.join(reporter)
    except Interrupted as stop:
        output().print(
            f"Stopped; the run is saved. Go on with:  sparsernn sweep --join {url}", soft_wrap=True
        )
        raise typer.Exit(128 + stop.signal_number) from None


def _show(url: str) -> None:
    from sparsernn.cli.console_tables import drawn
    from sparsernn.experiments import Sweep
    from sparsernn.report.console import output

    made = Sweep(url)
    made.check_some()
    if made.runs:
        output().print(drawn(made.table))
    for folder, sentence in made.failures.items():
        output().print(f"{folder}: {sentence}", soft_wrap=True, markup=False)
    output().print(f"The runs are in {made.plan.out}.", soft_wrap=True)
