"""Milliseconds per token of language models, by torch, onnxruntime and our runtime, side by side in one run.

    python benchmarks/inference.py [--layers lstm gru qrnn rhn] [--sizes 200 1500] [--batches 1 8] [--density .33]

Two layers and a head of 10,000 words; weights are random, for time does not depend on their values. Of our forms,
csr and csr_int8 have the model masked weight by weight, block16 and block16_int8 in blocks of 16 rows; all others
multiply every weight. All ways of running one model take turns in each round. A line has the median of all steps and,
in brackets, the first and third quartile; on one thread the clock counts processor time only. Below each table: how
many times the fastest exact form of ours is faster than onnxruntime in float32, and block16_int8 than the fastest
dense form in 8 bits.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsernn import kernels
from sparsernn.deploy import ModuleRuntime, macs_per_token, measure_latency, runtime
from sparsernn.deploy.graph_export import ONNX_NEEDS, export
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.rounded_graph import export_rounded
from sparsernn.kernels.weight_formats import BLOCK
from sparsernn.models.language_model import LanguageModel

VOCABULARY = 10_000
LAYERS: dict[str, dict[str, Any]] = {
    "lstm": {"name": "lstm"},
    "gru": {"name": "gru"},
    "qrnn": {"name": "qrnn"},
    "rhn": {"name": "rhn", "depth": 3},
}
OURS = ("dense", "dense_int8", "csr", "csr_int8", "block16", "block16_int8")
EXACT = ("dense", "csr", "block16")
INT8 = ("onnxruntime int8", "export --int8", "dense_int8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[200, 1500], help="hidden size of both layers"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="texts at once, 1 to 16 each")
    parser.add_argument("--density", type=float, default=0.33)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--threads", type=int, default=1, help="of torch, onnxruntime and our runtime")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--no-onnx", action="store_true", help="leave onnxruntime out")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    return parser.parse_args()


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def masks_of(model: LanguageModel, density: float, rows: int) -> dict[str, Tensor]:
    """Random masks of all matrices, in which `rows` neighbouring rows share their pattern."""
    masks = {}
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            groups = torch.rand((weight.shape[0] + rows - 1) // rows, weight.shape[1]) < density
            masks[name] = groups.repeat_interleave(rows, 0)[: weight.shape[0]]
    return masks


def candidates(model: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """Every way of running the model; that it is masked is seen by none but the sparse forms."""
    each: dict[str, Any] = {"torch": ModuleRuntime(model)}
    if not options.no_onnx and all(find_spec(name) for name in ONNX_NEEDS["step"]):
        each |= in_onnxruntime(model, options.threads)
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    for rows, products in ((1, OURS[:4]), (BLOCK, OURS[4:])):
        masks = masks_of(model, options.density, rows)
        for product in products:
            sparse = not product.startswith("dense")
            for name, p in model.named_parameters():
                p.copy_(dense[name] * masks[name] if sparse and name in masks else dense[name])
            each[product] = runtime(
                model, masks if sparse else None, products=product, threads=options.threads
            )
    return each


def in_onnxruntime(model: LanguageModel, threads: int) -> dict[str, OnnxRuntime]:
    """The exported graph in float32, with weights and inputs in 8 bits as onnxruntime's own tool rounds them, and as
    `sparsernn export --int8` writes it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path, rounded = export(model, Path(folder) / "model.onnx").path, Path(folder) / "int8.onnx"
        quantize_dynamic(path, rounded, weight_type=QuantType.QInt8)
        ours = export_rounded(model, Path(folder) / "ours.onnx").path
        return {
            "onnxruntime": OnnxRuntime(path, threads),
            "onnxruntime int8": OnnxRuntime(rounded, threads),
            "export --int8": OnnxRuntime(ours, threads),
        }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each way, and what is gained."""
    for row in rows:
        low, high = row["spread_ms"]
        print(f"  {row['runtime']:<17} {row['ms_per_token']:8.3f}  ({low:.3f} to {high:.3f})")
    times = {row["runtime"]: row["ms_per_token"] for row in rows}
    best = min(EXACT, key=times.__getitem__)
    if "onnxruntime" in times:
        print(f"  {best}: {times['onnxruntime'] / times[best]:.2f} times as fast as onnxruntime in float32")
    dense = min((name for name in INT8 if name in times), key=times.__getitem__)
    print(f"  block16_int8: {times[dense] / times['block16_int8']:.2f} times as fast as {dense}", flush=True)


def run(options: argparse.Namespace, layer: str, hidden: int) -> list[dict[str, Any]]:
    """The tables of one model."""
    torch.manual_seed(0)
    model = LanguageModel(options.vocabulary, hidden, [hidden, hidden], layer=LAYERS[layer]).eval()
    macs, each, found = macs_per_token(model) / 1e6, candidates(model, options), []
    for batch in options.batches:
        print(f"\n{layer} 2 x {hidden}, batch {batch}: {macs:.1f} M multiply-accumulates per token if dense")
        clock = time.thread_time if options.threads == 1 else time.perf_counter
        tokens = 2 if hidden > 500 else 8
        rows = measure_latency(each, batch, repeats=options.repeats, tokens=tokens, clock=clock)
        show(rows)
        found += [{"layer": layer, "hidden": hidden, "density": options.density, **row} for row in rows]
    return found


def main() -> None:
    """Prints the tables."""
    options = arguments()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.threads} thread(s); torch {torch.__version__}; {kernels.describe()}")
    print(f"{platform.platform()}; Python {platform.python_version()}; command: python {' '.join(sys.argv)}")
    print(f"milliseconds per token; sparse forms at density {options.density}; V {options.vocabulary}")
    with torch.no_grad():
        found = [
            row for hidden in options.sizes for layer in options.layers for row in run(options, layer, hidden)
        ]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
