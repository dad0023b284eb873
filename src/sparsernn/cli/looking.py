"""`sparsernn evaluate`, `generate`, `inspect`, `report`, `compare`: what a run has come to."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.running import Data, RunFolder

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (evaluate, generate, inspect, report, compare):
        app.command()(command)


def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Parallel streams; 1 gives every token its full context."),
    ] = None,
    data: Data = None,
) -> None:
    """Score the best weights of a run on a split."""
    from sparsernn.assemble import open_run
    from sparsernn.cli.console import output
    from sparsernn.cli.progress import make_reporter
    from sparsernn.training.evaluate import evaluate_run

    opened = open_run(run, data)
    with make_reporter(output(), opened.task.metric) as reporter:
        scores = evaluate_run(opened, split, batch_size, lambda done: reporter.phase(split, done))
    weights = "averaged weights" if scores["averaged"] else "weights"
    output().print(f"{split}: {weights} of epoch {scores['epoch']}, {scores['batch_size']} streams")
    for name in ("perplexity", "bits", "loss", "tokens"):
        digits = ",.0f" if name == "tokens" else ".4f"
        output().print(f"  {name:<12}{scores[name]:{digits}}")


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(help="How the text begins.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 100,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Below 1 is more cautious; 0 takes the likeliest token.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 1,
    data: Data = None,
) -> None:
    """Write text with the best weights of a run."""
    from sparsernn.assemble import open_run
    from sparsernn.results import generate as write
    from sparsernn.results import take_best

    opened = open_run(run, data)
    take_best(opened)
    print(write(opened, prompt, tokens, temperature, seed))


def inspect(run: RunFolder) -> None:
    """Show the densities per tensor and gate, the active parameters, bytes and operations per token."""
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import drawn
    from sparsernn.report import compare as compared
    from sparsernn.report import load_run
    from sparsernn.report.tables import sizes_table, tensors_table

    record = load_run(run)
    for found in (compared([run]), tensors_table(record), sizes_table(record)):
        if found is not None:
            output().print(drawn(found))


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to; the run's own if not given."),
    ] = None,
) -> None:
    """Write report.html and report.md about a run, or a comparison of several."""
    from sparsernn.report import write_report

    target = out or (runs[0] if len(runs) == 1 else Path("comparison"))
    for path in write_report(runs, target):
        print(path)


def compare(
    runs: Runs,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a markdown table.")] = False,
) -> None:
    """Print the results of several runs side by side."""
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import drawn
    from sparsernn.report import compare as compared

    table = compared(runs)
    if markdown:
        print(table.markdown())
    else:
        output().print(drawn(table))
