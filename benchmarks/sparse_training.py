"""Seconds and memory of training steps whose products leave out the weights that do not exist, beside dense ones.

    python benchmarks/sparse_training.py            # LSTM 2x1500, V 10,000, batch 20, window 35, torch's threads
    python benchmarks/sparse_training.py --threads 1 --rounds 9

A step is all that a loop does for a batch: forward, loss, backward, clipping, optimizer, masks; SGD. All matrices are
masked, as in the published runs; products of LSTM and head are sparse, parameters and gradients are dense tensors
with zeros. Every contestant has a process of its own; they take turns step by step, so that whatever else runs on the
machine meets all alike; processor seconds are those that a process was given. Memory is the most that the process
held (its libraries, about 0.25 GiB, included). `plain` is what a user writes by hand: nn.Embedding, nn.LSTM,
nn.Linear, cross_entropy, clip_grad_norm_, SGD.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from training_step import BATCH, VOCABULARY, WINDOW, ours, plain

Step = Callable[[], None]


def masked(width: int, density: float, product: str = "sparse", block: int = 1) -> tuple[Step, Step]:
    """A step of this library's loop with static masks."""
    masks = {"name": "static", "density": density, "block": [block, 1]}
    return ours(width, 0, "sgd", masks, product)


CONTESTANTS: dict[str, Callable[[int], tuple[Step, Step]]] = {
    "plain torch, nn.LSTM": partial(plain, threads=0),
    "sparsernn, no masks": partial(ours, threads=0, optimizer="sgd", sparsity={"name": "dense"}),
    "masks .33, dense products": partial(masked, density=0.33, product="dense"),
    **{
        f"blocks 16x1 {d:g}".replace(" 0", " "): partial(masked, density=d, block=16)
        for d in (0.5, 0.33, 0.2, 0.1, 0.05)
    },
    **{f"single weights {d:g}".replace(" 0", " "): partial(masked, density=d) for d in (0.2, 0.1, 0.05)},
}
MAIN = (0, 1, 2, 4, 6, 9)
"""What `--few` measures, by position."""
PLAIN, DENSE = list(CONTESTANTS)[:2]


def work(pipe: Any, name: str, width: int, threads: int) -> None:
    """A contestant's process: takes a step when told, answers with its seconds, and with its memory at the end."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, _ = CONTESTANTS[name](width)
    while pipe.recv() != "stop":
        started = time.perf_counter(), time.process_time()
        step()
        pipe.send((time.perf_counter() - started[0], time.process_time() - started[1]))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


Figures = tuple[list[tuple[float, float]], float]


def measure(names: list[str], width: int, threads: int, rounds: int) -> dict[str, Figures]:
    """Seconds of every step of every contestant, by the clock and of the processor, and its most memory in GiB."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for name in names:
        pipes[name], far = context.Pipe()
        context.Process(target=work, args=(far, name, width, threads), daemon=True).start()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 2):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds = pipe.recv()
            if number >= 2:  # two of warm-up
                times[name].append(seconds)
        print(f"round {number + 1} of {rounds + 2}", file=sys.stderr)
    memory = {}
    for name, pipe in pipes.items():
        pipe.send("stop")
        memory[name] = pipe.recv()
    return {name: (times[name], memory[name]) for name in names}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--few", action="store_true", help="only the main ones; all take 12 GB of memory at 1500"
    )
    options = parser.parse_args()
    names = [n for k, n in enumerate(CONTESTANTS) if not options.few or k in MAIN]
    found = measure(names, options.width, options.threads, options.rounds)
    from sparsernn.kernels import describe
    from sparsernn.runs.assembly import processor

    print(
        f"LSTM 2x{options.width}, V {VOCABULARY}, batch {BATCH}, window {WINDOW}; {options.threads} threads;"
    )
    print(f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}; {describe()}")
    print("seconds per step: medians, by the clock (least) and of the processor; times as fast; most memory")
    middle = {n: [statistics.median(column) for column in zip(*f[0], strict=True)] for n, f in found.items()}
    heads = [("s per step", 16), ("dense /", 10), ("plain /", 10), ("cpu s", 8), ("dense /", 10)]
    heads += [("GiB", 7), ("/ dense", 10)]
    print(" " * 28 + "".join(f"{head:>{width}}" for head, width in heads))
    for name, (taken, memory) in found.items():
        wall, cpu = middle[name]
        faster = [middle[DENSE][0] / wall, middle[PLAIN][0] / wall, middle[DENSE][1] / cpu]
        print(
            f"{name:28}{wall:8.3f} ({min(taken)[0]:.3f}){faster[0]:9.2f}x{faster[1]:9.2f}x{cpu:8.3f}{faster[2]:9.2f}x"
            f"{memory:7.2f}{memory / found[DENSE][1]:10.0%}"
        )


if __name__ == "__main__":
    main()
