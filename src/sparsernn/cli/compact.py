"""`sparsernn compact`: a run without its dead units, and the proof that it puts out the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import Data, Out, RunFolder
from sparsernn.core.plain import Json
from sparsernn.runs.run_folders import fresh_folder


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compact)


def compact(
    run: RunFolder,
    out: Out = None,
    criterion: Annotated[
        str,
        typer.Option(
            help="Units that go: strict (all weights 0), unread (those that read it), silent (always 0), or any."
        ),
    ] = "any",
    tol: Annotated[
        float, typer.Option(min=0.0, help="Also remove units whose norm is below; may change the outputs.")
    ] = 0.0,
    repeats: Annotated[int, typer.Option(min=0, help="Timed rounds of the latency; 0 for none.")] = 9,
    data: Data = None,
) -> None:
    """Remove the hidden units that a run's model does not need, prove that nothing else changed, write a smaller run.

    Where no unit can go, but single weights are masked, the new run's checkpoints store only the weights that exist.
    """
    from sparsernn.runs.compaction import Settings, compact_run

    folder = out or fresh_folder(f"{run.name}-compact")
    smaller, record = compact_run(run, folder, Settings(criterion, tol, data, repeats))
    _show(record)
    _suggest(smaller.home)


def _show(record: Mapping[str, Json]) -> None:
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report.charts.unit_charts import compact_table, proof_sentence
    from sparsernn.report.console import output

    output().print(drawn(compact_table(record)))
    output().print(proof_sentence(record), soft_wrap=True)


def _suggest(folder: Path) -> None:
    from sparsernn.report.console import output

    output().print(f"The smaller run:  {folder}", soft_wrap=True)
    for command, what in NEXT:
        output().print(f"  sparsernn {command} {folder}  ".ljust(48) + what, soft_wrap=True)


NEXT = (
    ("evaluate", "the same scores as before"),
    ("report", "its page, with sizes and times before and after"),
    ("finetune", "train on from here"),
)
