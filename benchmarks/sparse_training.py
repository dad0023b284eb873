"""Seconds and memory of training steps whose products leave out the weights that do not exist, beside dense ones.

    python benchmarks/sparse_training.py            # LSTM 2x1500, V 10,000, batch 20, window 35, torch's threads
    python benchmarks/sparse_training.py --threads 1 --rounds 9

A step is all that a loop does for a batch: forward, loss, backward, clipping, optimizer, masks; SGD. All matrices are
masked, as in the published runs; products of LSTM and head are sparse, and what is stored of embedding, LSTM and head
(weights and gradients) are the existing values. Every contestant has a process of its own; they take turns step by
step, so that whatever else runs on the machine meets all alike; processor seconds are those that a process was given.
Memory is the most that a process held in its steps, after two of warm-up, beyond what it held with its libraries
loaded and nothing built; what building the model took before, its dense first weights included, is not in it. The
share of the processor's peak is that of the multiplications with existing weights; the peak is measured before all
else, by a process that is alone. `plain` is what a user writes by
hand: nn.Embedding, nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_, SGD.
"""

import argparse
import ctypes
import importlib
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from training_step import BATCH, VOCABULARY, WINDOW, ours, plain

Step = Callable[[], None]
WARM = 2
"""Steps that are not counted."""
SIDE, PRODUCTS = 2048, 20
"""Rows and columns of the matrices whose product is the processor's peak, and how many products are timed."""
LIBRARIES = ("sparsernn.models", "torch._dynamo")
"""What is loaded before memory is counted; the second one by torch's optimizers, in their first step."""


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
    for library in LIBRARIES:
        importlib.import_module(library)

    before = memory("VmRSS")
    step, _ = CONTESTANTS[name](width)
    for _ in range(WARM):
        pipe.recv()
        pipe.send(timed(step))
    forget_peak()
    while pipe.recv() != "stop":
        pipe.send(timed(step))
    pipe.send(memory("VmHWM") - before)


def timed(step: Step) -> tuple[float, float]:
    """Seconds of a step by the clock and of the processor."""
    started = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def memory(what: str) -> float:
    """GiB that this process holds ("VmRSS"), or has held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 2**20


def forget_peak() -> None:
    """The most that was held is what is held now, without what lies free in the process."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


Figures = tuple[list[tuple[float, float]], float]


def measure(names: list[str], width: int, threads: int, rounds: int) -> dict[str, Figures]:
    """Seconds of every step of every contestant, by the clock and of the processor, and its most memory in GiB."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for name in names:
        pipes[name], far = context.Pipe()
        context.Process(target=work, args=(far, name, width, threads), daemon=True).start()
        far.close()  # so that a contestant that ends is heard
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + WARM):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds = pipe.recv()
            if number >= WARM:
                times[name].append(seconds)
        print(f"round {number + 1} of {rounds + WARM}", file=sys.stderr)
    most = {}
    for name, pipe in pipes.items():
        pipe.send("stop")
        most[name] = pipe.recv()
    return {name: (times[name], most[name]) for name in names}


def multiply(pipe: Any, threads: int) -> None:
    """A process that tells the least seconds of a product of two matrices, `SIDE` x `SIDE`."""
    torch.set_num_threads(threads)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    out = torch.mm(a, b)
    pipe.send(min(timed(lambda: torch.mm(a, b, out=out))[0] for _ in range(PRODUCTS)))


def processor_peak(threads: int) -> float:
    """Operations per second of torch's dense products, in a process that is alone: the contestants begin later."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=multiply, args=(far, threads))
    process.start()
    far.close()
    least = pipe.recv()
    process.join()
    return 2 * SIDE**3 / float(least)


def operations(name: str, width: int) -> float:
    """Those of a step's products with existing weights: of two layers and the head, forth, back, and the gradient."""
    given = CONTESTANTS[name]
    density = given.keywords.get("density", 1.0) if isinstance(given, partial) else 1.0
    return 3 * 2 * BATCH * WINDOW * density * (2 * 8 * width * width + VOCABULARY * width)


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
    peak = processor_peak(options.threads)
    found = measure(names, options.width, options.threads, options.rounds)
    from sparsernn.kernels import describe
    from sparsernn.runs.assembly import processor

    print(
        f"LSTM 2x{options.width}, V {VOCABULARY}, batch {BATCH}, window {WINDOW}; {options.threads} threads;"
    )
    print(f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}; {describe()}")
    print(
        "seconds per step: medians, by the clock (least) and of the processor; times as fast; most memory in steps"
    )
    print(
        f"peak: {peak / 1e9:.0f} GFLOP/s, the best of {PRODUCTS} float32 products of {SIDE} x {SIDE} matrices in a "
        "process alone, before the others began"
    )
    middle = {n: [statistics.median(column) for column in zip(*f[0], strict=True)] for n, f in found.items()}
    heads = [("s per step", 16), ("dense /", 10), ("plain /", 10), ("cpu s", 8), ("dense /", 10)]
    heads += [("GiB", 7), ("/ dense", 10), ("of peak", 9)]
    print(" " * 28 + "".join(f"{head:>{width}}" for head, width in heads))
    for name, (taken, held) in found.items():
        wall, cpu = middle[name]
        faster = [middle[DENSE][0] / wall, middle[PLAIN][0] / wall, middle[DENSE][1] / cpu]
        print(
            f"{name:28}{wall:8.3f} ({min(taken)[0]:.3f}){faster[0]:9.2f}x{faster[1]:9.2f}x{cpu:8.3f}{faster[2]:9.2f}x"
            f"{held:7.2f}{held / found[DENSE][1]:10.0%}"
            f"{operations(name, options.width) / wall / peak:9.0%}"
        )


if __name__ == "__main__":
    main()
