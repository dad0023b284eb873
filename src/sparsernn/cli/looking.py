"""`sparsernn evaluate`, `generate`, `inspect`, `report`, `compare`: what a run has come to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsernn.cli import modes
from sparsernn.cli.running import Data, RunFolder
from sparsernn.cli.topology import show_topologies

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
    pointer: modes.Pointer = False,
    preset: modes.Preset = None,
    window: modes.Window = None,
    theta: modes.Theta = None,
    mixing: modes.Mixing = None,
    full_window: modes.FullOnly = False,
    tune: modes.Tune = False,
    dynamic: modes.Dynamic = False,
    lamb: modes.Lamb = None,
    lr: modes.Lr = None,
    epsilon: modes.Epsilon = None,
    segment: modes.Segment = None,
    statistics_batch: modes.StatisticsBatch = None,
    max_batches: modes.MaxBatches = None,
    ms: modes.MeanSquares = False,
) -> None:
    """Score the best weights of a run on a split, as they are, with a neural cache, or learning on the way."""
    cache = {"preset": preset, "window": window, "theta": theta, "mixing": mixing, "tune": tune or None}
    learning = {"lamb": lamb, "lr": lr, "epsilon": epsilon, "segment": segment, "max_batches": max_batches}
    given = {
        **cache,
        "partly_filled": False if full_window else None,
        **learning,
        "statistics_batch": statistics_batch,
        "statistics": "mean" if ms else None,
    }
    mode = modes.chosen_mode({"pointer": pointer, "dynamic": dynamic}, given)
    _evaluate(run, split, batch_size, data, mode, tune)


def _evaluate(
    run: Path, split: str, batch_size: int | None, data: Path | None, mode: Any, tune: bool
) -> None:
    from sparsernn.assemble import open_run
    from sparsernn.cli.console import output
    from sparsernn.cli.progress import make_reporter
    from sparsernn.report import load_run
    from sparsernn.training.evaluate import evaluate_run

    opened = open_run(run, data)
    with make_reporter(output(), opened.task.metric) as reporter:
        if tune:
            mode = modes.tuned(opened, mode, batch_size, lambda done: reporter.phase("tuning on valid", done))
        scores = evaluate_run(opened, split, batch_size, lambda done: reporter.phase(split, done), mode)
    _show_scores(scores, opened.task.metric, mode)
    end = load_run(run).last("end")
    if end:
        output().print(f"  training ended with epoch {end['epoch']}, for {end['why']}")


def _show_scores(scores: dict[str, Any], metric: str, mode: Any) -> None:
    from sparsernn.cli.console import output
    from sparsernn.training.evaluate import FACTS

    weights = "averaged weights" if scores["averaged"] else "weights"
    origin = f"of epoch {scores['epoch']}" if scores["epoch"] else "that the finetuning started from"
    streams = f", streams read at once: {scores['batch_size']}" if scores["batch_size"] else ""
    output().print(f"{scores['split']}: {weights} {origin}{streams}")
    if mode is not None:
        output().print(f"  {modes.described(mode)}")
    values = {name: value for name, value in scores.items() if name not in FACTS}
    width = max(12, *(len(name) + 2 for name in values))
    for name in sorted(values, key=lambda name: name != metric):
        digits = ",.0f" if isinstance(values[name], int) else ".4f"
        output().print(f"  {name:<{width}}{values[name]:{digits}}")


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
    topology: Annotated[
        bool,
        typer.Option(
            "--topology",
            help="How different the connections of two runs are, or of a run's best and last state.",
        ),
    ] = False,
    data: Data = None,
) -> None:
    """Print the results of several runs side by side, or how different their connections are."""
    if topology:
        show_topologies(runs, markdown, data)
        return
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import drawn
    from sparsernn.report import compare as compared

    table = compared(runs)
    if markdown:
        print(table.markdown())
    else:
        output().print(drawn(table))
