"""`sparsernn inspect`: densities, active parameters, bytes and operations of a run."""

import typer

from sparsernn.cli.arguments import RunFolder


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(inspect)


def inspect(run: RunFolder) -> None:
    """Show the densities per tensor and gate, the active parameters, bytes and operations per token."""
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report import compare as compared
    from sparsernn.report import load_run
    from sparsernn.report.console import output
    from sparsernn.report.story.tables import sizes_table, tensors_table

    record = load_run(run)
    for found in (compared([run]), tensors_table(record), sizes_table(record)):
        if found is not None:
            output().print(drawn(found))
