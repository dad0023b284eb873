"""Milliseconds per token of LSTM language models, dense and sparse, side by side in one run.

    python benchmarks/inference.py [--sizes 1500 200] [--densities .5 .33 .2 .1 .05] [--batch 1] [--threads 1]

Every density has its own model (weights are random: time does not depend on their values): once masked weight
by weight (csr), once in blocks of 16 rows (block16). All candidates of a density take turns in each round; the
table shows the fastest step, because whatever else the machine does only adds, and on one thread the clock
counts processor time only. In brackets: how many times faster than the best float32 dense form (torch or ours)
and than the dense form in 8 bits of that line. Below 1, sparsity does not pay.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsernn import kernels
from sparsernn.deploy import LSTMRuntime, ModuleRuntime, macs_per_token, measure_latency, sizes
from sparsernn.kernels.weight_formats import BLOCK
from sparsernn.models.language_model import LanguageModel

VOCABULARY = 10_000
DENSE = ("torch", "dense")
PRODUCTS = ("dense", "dense_int8", "csr", "csr_int8", "block16", "block16_int8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1500, 200], help="hidden sizes of two layers"
    )
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.33, 0.2, 0.1, 0.05])
    parser.add_argument("--batch", type=int, default=1, help="texts at once, 1 to 16")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of our runtime")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds")
    parser.add_argument("--json", type=Path, help="write all rows, medians included, to this file")
    return parser.parse_args()


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def masked(model: LanguageModel, density: float, rows: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's tensors under random masks in which `rows` neighbouring rows share their pattern."""
    state, masks = dict(model.state_dict()), {}
    for name, weight in state.items():
        if weight.ndim == 2:
            groups = torch.rand((weight.shape[0] + rows - 1) // rows, weight.shape[1]) < density
            masks[name] = groups.repeat_interleave(rows, 0)[: weight.shape[0]]
            state[name] = weight * masks[name]
    return state, masks


def candidates(model: LanguageModel, density: float, threads: int) -> dict[str, Any]:
    """Every way of running the model at this density."""
    each: dict[str, Any] = {"torch": ModuleRuntime(model)}
    single, blocks = masked(model, density, 1), masked(model, density, BLOCK)
    for product in PRODUCTS:
        state, masks = blocks if product.startswith("block") else single
        each[product] = LSTMRuntime(state, masks, products=product, threads=threads)
    return each


def show(rows: list[dict[str, Any]], density: float) -> None:
    """One line of the table."""
    times = {row["runtime"]: row["fastest_ms"] for row in rows}
    best, int8 = min(times[name] for name in DENSE), times["dense_int8"]
    cells = [
        f"{t:7.3f} ({best / t:4.1f} {int8 / t:4.1f})" for t in (times[name] for name in ("torch", *PRODUCTS))
    ]
    print(f"{density:7.2f} " + " ".join(cells), flush=True)


def run(options: argparse.Namespace, hidden: int) -> list[dict[str, Any]]:
    """The table of one size."""
    model = LanguageModel(VOCABULARY, hidden, [hidden, hidden]).eval()
    macs = macs_per_token(model) / 1e6
    print(f"\n2 x {hidden}, V {VOCABULARY}, batch {options.batch}: {macs:.1f} M MACs per token if dense")
    print("density " + " ".join(f"{name:>19}" for name in ("torch", *PRODUCTS)))
    found = []
    for density in options.densities:
        each = candidates(model, density, options.threads)
        clock = time.thread_time if options.threads == 1 else time.perf_counter
        tokens = 2 if hidden > 500 else 10
        rows = measure_latency(each, options.batch, repeats=options.repeats, tokens=tokens, clock=clock)
        show(rows, density)
        found += [{"hidden": hidden, "density": density, **row} for row in rows]
    show_sizes(model, options.densities)
    return found


def show_sizes(model: LanguageModel, densities: list[float]) -> None:
    """Bytes of the model's file."""
    for density in densities:
        state, masks = masked(model, density, 1)
        found, macs = sizes(state, masks), macs_per_token(state, masks)
        dense, packed, int8 = (size / 1e6 for size in found.values())
        files = f"file {dense:.1f} MB -> {packed:.1f} MB, 8 bits {int8:.1f} MB"
        print(f"{density:7.2f}  {macs / 1e6:.1f} M MACs, {files}")


def main() -> None:
    """Prints the tables."""
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.threads} thread(s); torch {torch.__version__}; {kernels.describe()}")
    print(f"{platform.platform()}; Python {platform.python_version()}; command: python {' '.join(sys.argv)}")
    with torch.no_grad():
        found = [row for hidden in options.sizes for row in run(options, hidden)]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
