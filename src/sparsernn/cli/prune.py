"""`sparsernn prune`: a trained run made sparse in one go, and what that costs before finetuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsernn.cli.arguments import Data, Device, Out, RunFolder
from sparsernn.core.checks import check_value
from sparsernn.core.limits import Spelling
from sparsernn.core.metrics import metric
from sparsernn.core.plain import Json
from sparsernn.runs.run_folders import fresh_folder

if TYPE_CHECKING:
    from sparsernn.report import Table
    from sparsernn.runs.run import Run


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(prune)


def prune(
    run: RunFolder,
    density: Annotated[float, typer.Option(help="Fraction of weights to keep of each tensor, in (0, 1].")],
    method: Annotated[
        str,
        typer.Option(
            help="obs (what stays makes up for what goes), activation (weight times input) or magnitude."
        ),
    ] = "obs",
    block: Annotated[
        str | None,
        typer.Option(
            metavar="ROWSxCOLUMNS",
            help="What goes as a whole, such as 16x1; auto: 16x1 with --block-fallback. Without: single weights.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Name or pattern of a tensor to prune; all if not given.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Name or pattern of a tensor to leave as it is.")
    ] = None,
    block_fallback: Annotated[
        bool,
        typer.Option(
            "--block-fallback", help="Single weights in tensors with fewer rows or columns than one block."
        ),
    ] = False,
    batches: Annotated[int, typer.Option(help="Training batches to look at.")] = 16,
    out: Out = None,
    data: Data = None,
    device: Device = None,
) -> None:
    """Prune the best weights of a run, layer by layer with a few training batches, and write a new run.

    It prints the score on the validation split before and after; finetuning comes next and keeps the masks.
    """
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.pruned_folder import prune_run
    from sparsernn.sparsity.trained.trained_pruning import PruneSettings

    settings = PruneSettings(
        density, method, _block(block), include or ("*",), exclude or (), block_fallback=block_fallback
    )
    folder = out or fresh_folder(f"{run.name}-pruned")
    with make_reporter(output(), "") as reporter:
        new, record = prune_run(
            run, folder, settings, batches=batches, data_dir=data, device=device, tick=reporter.phase
        )
    output().print(drawn(_table(record)))
    for line in _lines(record):
        output().print(line, soft_wrap=True)
    output().print(f"The pruned run:  {new.home}", soft_wrap=True)
    output().print(f"  {_next(new)}", soft_wrap=True)


def _block(given: str | None) -> tuple[int, int] | Literal["auto"] | None:
    """The numbers of 16x1.

    >>> _block("16x1"), _block("auto"), _block(None)
    ((16, 1), 'auto', None)
    """
    if given is None:
        return None
    if given == "auto":
        return "auto"
    check_value("block", given, Annotated[str, Spelling(r"\d+x\d+", "auto or ROWSxCOLUMNS, such as 16x1")])
    rows, _, columns = given.partition("x")
    return int(rows), int(columns)


def _table(record: Mapping[str, Json]) -> Table:
    from math import prod

    from sparsernn.report import Table

    rows = [
        (
            row["name"],
            " x ".join(f"{n:,}" for n in row["shape"]),
            f"{row['active']:,}",
            f"{row['active'] / prod(row['shape']):.3f}",
            row["method"],
            "" if row["error"] is None else f"{row['error']:.2%}",
        )
        for row in record["tensors"]
    ]
    return Table(
        ("tensor", "shape", "left", "density", "by", "products changed by"), tuple(rows), text=(0, 4)
    )


def _lines(record: Mapping[str, Json]) -> list[str]:
    """The tensors that fell back, the scores before and after, the seconds."""
    told = metric(record["metric"])
    before, after = (told.shown(scores[record["metric"]]) for scores in record["scores"])
    reasons: dict[str, list[str]] = {}
    for row in record["tensors"]:
        if row["why"]:
            reasons.setdefault(row["why"], []).append(row["name"])
    fallen = [f"By magnitude, because {why}: {', '.join(names)}." for why, names in reasons.items()]
    read = f", {record['batches']} training batches read" if record["batches"] else ""
    return [
        *fallen,
        f"Validation before: {before}   after: {after}   ({record['density']:.1%} of the weights left)",
        f"{record['seconds']:.1f} seconds of work{read}",
    ]


def _next(run: Run) -> str:
    """The command that finetunes the run."""
    averages = "" if run.optimizer.finetunes else " optimizer=nt_asgd optimizer.lr=5"
    return f"sparsernn finetune {run.home}{averages}"
