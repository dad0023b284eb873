"""`sparsernn evaluate`: the scores of a run's best weights, as they are or in another mode."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.cli import evaluation_options as modes
from sparsernn.cli.arguments import Data, Device, RunFolder
from sparsernn.core.metrics import SCIENTIFIC
from sparsernn.core.plain import Json

if TYPE_CHECKING:
    from sparsernn.runs.evaluation import Mode


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(evaluate)


def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Parallel streams; 1 gives every token its full context."),
    ] = None,
    data: Data = None,
    device: Device = None,
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
    _evaluate(run, split, batch_size, (data, device), mode, tune)


def _evaluate(
    run: Path,
    split: str,
    batch_size: int | None,
    where: tuple[Path | None, str | None],
    mode: "Mode | None",
    tune: bool,
) -> None:
    from sparsernn.report import load_run
    from sparsernn.report.console import output
    from sparsernn.report.progress import make_reporter
    from sparsernn.runs.assembly import open_run
    from sparsernn.runs.evaluation import evaluate_run
    from sparsernn.tasks.cache_pointer import NeuralCache

    opened = open_run(run, *where)
    with make_reporter(output(), opened.task.metric) as reporter:
        if tune and isinstance(mode, NeuralCache):
            mode = modes.tuned(opened, mode, batch_size, lambda done: reporter.phase("tuning on valid", done))
        scores = evaluate_run(opened, split, batch_size, lambda done: reporter.phase(split, done), mode)
    _show_scores(scores, opened.task.metric, mode)
    end = load_run(run).last("end")
    if end:
        output().print(f"  training ended with epoch {end['epoch']}, for {end['why']}")


def _show_scores(scores: dict[str, Json], metric: str, mode: "Mode | None") -> None:
    from sparsernn.report.console import output
    from sparsernn.runs.evaluation import FACTS

    weights = "averaged weights" if scores["averaged"] else "weights"
    origin = f"of epoch {scores['epoch']}" if scores["epoch"] else "that the finetuning started from"
    streams = f", streams read at once: {scores['batch_size']}" if scores["batch_size"] else ""
    output().print(f"{scores['split']}: {weights} {origin}{streams}")
    if mode is not None:
        output().print(f"  {modes.described(mode)}")
    values = {name: value for name, value in scores.items() if name not in FACTS}
    width = max(12, *(len(name) + 2 for name in values))
    for name in sorted(values, key=lambda name: name != metric):
        output().print(f"  {name:<{width}}{_figure(values[name])}")


def _figure(value: float) -> str:
    """A score with four decimals, a count with none.

    >>> _figure(71.65432), _figure(82430), _figure(2.5e9)
    ('71.6543', '82,430', '2.5000e+09')
    """
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4e}" if abs(value) >= SCIENTIFIC else f"{value:.4f}"
