"""What pruning trained runs at once loses, before any finetuning and after some of it: a table.

    sparsernn train budget/dense-wide epochs=6 optimizer.switch_epoch=2 seed=1 --data DIR --out runs/dense-1
    python benchmarks/pruning.py runs/dense-1                 4 densities x single weights and 16x1 x 3 methods
    python benchmarks/pruning.py runs/dense-* --finetune 1    and an epoch of finetuning each; mean and spread of runs

A cell is what `sparsernn prune RUN --density D --method M [--block 16x1]` prints, and a run of its own in the folder
RUN-pruning. What is there is read and not done again: the script may be stopped, and runs may be pruned side by side
before one call prints them all.
"""

import argparse
import shutil
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sparsernn.core.metrics import metric
from sparsernn.report.story.history import load_run
from sparsernn.report.story.tables import Table
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.runs.pruned_folder import prune_run
from sparsernn.sparsity.trained.trained_pruning import PruneSettings

METHODS = ("magnitude", "activation", "obs")
DENSITIES = (0.5, 0.33, 0.2, 0.1)
BLOCKS = {"single weights": None, "16x1": (16, 1)}


def pruned(run: Path, folder: Path, density: float, block: str, method: str) -> dict[str, Any]:
    """The record of a pruned run, which is made if it is not there."""
    if not _has(folder, "prune"):
        shutil.rmtree(folder, ignore_errors=True)
        settings = PruneSettings(density, method, BLOCKS[block])
        prune_run(run, folder, settings)
    return load_run(folder).last("prune")


def finetuned(folder: Path, epochs: int) -> dict[str, Any]:
    """The scores of the last epoch of a run's finetuning, which is done if it has not been."""
    target = folder.with_name(f"{folder.name}-finetuned")
    if not _has(target, "test"):
        shutil.rmtree(target, ignore_errors=True)
        train(start(folder, target, [f"epochs={epochs}"], None))
    return load_run(target).of("epoch")[-1]["valid"]


def _has(folder: Path, event: str) -> bool:
    return (folder / "metrics.jsonl").exists() and bool(load_run(folder).of(event))


def scores(run: Path, density: float, block: str, method: str, epochs: int) -> tuple[str, list[float]]:
    """The metric's name, and of one cell: score, seconds, and the score after finetuning if there is any."""
    folder = run.with_name(f"{run.name}-pruning") / f"{method}-{density}-{block.replace(' ', '-')}"
    record = pruned(run, folder, density, block, method)
    name = record["metric"]
    told = [record["scores"][1][name], record["seconds"]]
    told += [finetuned(folder, epochs)[name]] if epochs else []
    print(run.name, density, block, method, *(f"{value:.4g}" for value in told), flush=True)
    return name, told


def spread(values: list[float], name: str) -> str:
    """Mean ± sample standard deviation in the metric's own form; of one value, the value.

    >>> spread([210.0, 212.0], "perplexity"), spread([210.0], "perplexity")
    ('211.00 ppl ± 1.41 ppl', '210.00 ppl')
    """
    row = metric(name)
    mean = row.shown(statistics.mean(values))
    return f"{mean} ± {row.shown(statistics.stdev(values))}" if len(values) > 1 else mean


def cells(runs: list[Path], density: float, block: str, epochs: int) -> list[str]:
    """A row: for each method the score, its seconds, and the score after finetuning, over the runs."""
    told = []
    for method in METHODS:
        names, each = zip(*(scores(run, density, block, method, epochs) for run in runs), strict=True)
        before, seconds, *after = (list(column) for column in zip(*each, strict=True))
        told += [spread(before, names[0]), f"{statistics.mean(seconds):.1f}"]
        told += [spread(column, names[0]) for column in after]
    return told


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    each = ("", "seconds", "finetuned") if given.finetune else ("", "seconds")
    columns = ["density", "what goes", *(f"{method} {what}".strip() for method in METHODS for what in each)]
    rows = [
        (str(density), block, *cells(given.runs, density, block, given.finetune))
        for block, density in product(BLOCKS, given.densities)
    ]
    print(Table(tuple(columns), tuple(rows), text=(1,)).markdown())


if __name__ == "__main__":
    main()
