"""Tokens per second of a recipe trained by one process and by several, over gloo on this machine's processors.

    python benchmarks/ranks.py                          selfish/lstm-ptb-small on 1 and 2 processes
    python benchmarks/ranks.py --recipe selfish/lstm-ptb --ranks 1 2 4 --steps 30

Each process has one thread, so that every count has as many threads as processes; "1 process, 2 threads" is what the
second core gives without any exchange. The corpus is random words: speed does not depend on which are read. The first
third of the steps is left out, and the best and the median of the repeats are printed.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from recipe_steps import Clock, random_run

from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train
from sparsernn.runs.ranks import processes

WORDS = 10_000


def main() -> None:
    """Measure every count in turn, the repeats of all mixed, so that a busy minute hits none alone."""
    given = arguments()
    if given.place:
        print(json.dumps(measured(given)))
        return
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, ", end="")
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}; {given.recipe}, {given.steps} steps"
    )
    forms = [(count, 1) for count in given.ranks] + [(1, max(given.ranks))]
    found: dict[tuple[int, int], list[float]] = {form: [] for form in forms}
    for _ in range(given.repeats):
        for form in forms:
            found[form].append(started(given, *form))
    alone = statistics.median(found[forms[0]])
    for (count, threads), speeds in found.items():
        usual = statistics.median(speeds)
        form = f"{count} process{'es' * (count > 1)}, {threads} thread{'s' * (threads > 1)} each"
        print(f"{form}: {usual:,.0f} tokens/s (best {max(speeds):,.0f}, {usual / alone:.2f} x the first)")


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="selfish/lstm-ptb-small")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def started(given: argparse.Namespace, count: int, threads: int) -> float:
    """Tokens per second of so many processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    asked = ["--recipe", given.recipe, "--steps", str(given.steps), "--threads", str(threads)]
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, __file__, *asked, "--place", place]
        crew = [
            subprocess.Popen(
                command,
                env={
                    **os.environ,
                    **meeting,
                    "OMP_NUM_THREADS": str(threads),
                    "WORLD_SIZE": str(count),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate()[0] for process in crew]
    if any(process.returncode for process in crew):
        raise SystemExit("a process ended in error; see above")
    speed: float = json.loads(said[0].splitlines()[-1])
    return speed


def measured(given: argparse.Namespace) -> float:
    """Tokens per second, in a process that takes part."""
    overrides = [f"threads={given.threads}", "log_every=1"]
    with processes() as ranks:
        # Random words are no data that another process could read again: each puts the same run together, in a folder
        # of its own.
        own = given.place / str(ranks.rank)
        run = random_run(given.recipe, overrides, own, WORDS, tokens=200_000)
        run.ranks = ranks
        clock = Clock(given.steps)
        with suppress(Interrupted):
            train(run, clock)
    marks = clock.marks[len(clock.marks) // 3 :]
    (first, start), (last, stop) = marks[0], marks[-1]
    tokens = next(iter(run.task.batches(1, 0))).targets.numel()
    return tokens * (last - first) / (stop - start)


if __name__ == "__main__":
    main()
