"""`sparsernn compare`: several runs side by side, or how different their connections are."""

from typing import Annotated

import typer

from sparsernn.cli.arguments import Runs, UnusedData
from sparsernn.cli.topology_table import show_topologies


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compare)


def compare(
    runs: Runs,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a markdown table.")] = False,
    topology: Annotated[
        bool,
        typer.Option(
            "--topology",
            help="How different the connections of two runs are, or of a run's best and last state.",
        ),
    ] = False,
    data: UnusedData = None,
) -> None:
    """Print the results of several runs side by side, or how different their connections are."""
    if topology:
        show_topologies(runs, markdown)
        return
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report import compare as compared
    from sparsernn.report import load_run
    from sparsernn.report.console import output
    from sparsernn.report.story.seeds import seeds_tables

    for table in (compared(runs), *seeds_tables([load_run(run) for run in runs])):
        if markdown:
            print(table.markdown(), end="\n\n")
        else:
            output().print(drawn(table))
