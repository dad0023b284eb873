"""Milliseconds per token of language models, by torch, onnxruntime and our runtime, side by side in one run.

    python benchmarks/inference.py [--layers lstm gru qrnn rhn] [--sizes 200 1500] [--batches 1 8] [--density .33]
    python benchmarks/inference.py --window 35 [--only onnxruntime "export --int8" ...]

Two layers and a head of 10,000 words; weights are random, for time does not depend on their values. Of our forms,
csr and csr_int8 have the model masked weight by weight, block16 and block16_int8 in blocks of 16 rows; all others
multiply every weight. All ways of running one model take turns in each round. A line has the median of all steps and,
in brackets, the first and third quartile; on one thread the clock counts processor time only. Below each table: how
many times the fastest exact form of ours is faster than onnxruntime in float32, and block16_int8 than the fastest
dense form in 8 bits. With --window, calls read so many tokens of each text at once, and the graphs are those of whole
sequences, in float32 and as `export --int8 --graph sequence` writes them; a window's time is divided by its tokens.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsernn import kernels
from sparsernn.deploy import ModuleRuntime, macs_per_token, measure_latency, runtime
from sparsernn.deploy.graph_export import ONNX_NEEDS, export
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.rounded_graph import export_rounded, export_rounded_sequences
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
GRAPHS = ("onnxruntime", "onnxruntime int8", "export --int8", "export --int4")
WINDOW_GRAPHS = ("onnxruntime", "export --int8")


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
    parser.add_argument(
        "--window", type=int, help="tokens of a call, at least 1; one step at a time if not given"
    )
    parser.add_argument("--only", nargs="+", choices=("torch", *GRAPHS, *OURS), help="these ways alone")
    parser.add_argument("--no-onnx", action="store_true", help="leave onnxruntime out")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    return parser.parse_args()


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def versions() -> str:
    """Of what computes."""
    with suppress(ImportError):
        import onnxruntime

        return f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    return f"torch {torch.__version__}"


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
    wanted = set(options.only or ("torch", *GRAPHS, *OURS))
    each: dict[str, Any] = {"torch": ModuleRuntime(model)} if "torch" in wanted else {}
    if not options.no_onnx:
        each |= in_onnxruntime(model, options.threads, options.window is not None, wanted)
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    for rows, products in ((1, OURS[:4]), (BLOCK, OURS[4:])):
        masks = masks_of(model, options.density, rows)
        for product in (name for name in products if name in wanted):
            sparse = not product.startswith("dense")
            for name, p in model.named_parameters():
                p.copy_(dense[name] * masks[name] if sparse and name in masks else dense[name])
            each[product] = runtime(
                model, masks if sparse else None, products=product, threads=options.threads
            )
    return each


def in_onnxruntime(
    model: LanguageModel, threads: int, window: bool, wanted: set[str]
) -> dict[str, OnnxRuntime]:
    """The graphs that `sparsernn export` writes, in float32, 8 and 4 bits, and what onnxruntime's own tool makes of
    the first; of one step, or of whole sequences."""
    names = [name for name in (WINDOW_GRAPHS if window else GRAPHS) if name in wanted]
    lacking = [name for name in ONNX_NEEDS["sequence" if window else "step"] if find_spec(name) is None]
    if lacking and names:
        print(f"without {lacking[0]} there are no rows of onnxruntime")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return {name: OnnxRuntime(graph(model, name, window, Path(folder)), threads) for name in names}


def graph(model: LanguageModel, name: str, window: bool, folder: Path) -> Path:
    """The file of one of the ways."""
    path = folder / f"{name.replace(' ', '-')}.onnx"
    if name == "onnxruntime":
        return export(model, path, graph="sequence" if window else "step").path
    if name == "onnxruntime int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        exact = folder / "onnxruntime.onnx"  # made before, if it is among the ways
        if not exact.is_file():
            export(model, exact)
        quantize_dynamic(exact, path, weight_type=QuantType.QInt8)
        return path
    if window:
        return export_rounded_sequences(model, path).path
    return export_rounded(model, path, values=name.removeprefix("export --")).path


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each way, and what is gained."""
    for row in rows:
        low, high = row["spread_ms"]
        print(f"  {row['runtime']:<17} {row['ms_per_token']:8.3f}  ({low:.3f} to {high:.3f})")
    times = {row["runtime"]: row["ms_per_token"] for row in rows}
    ours = min((name for name in EXACT if name in times), key=times.__getitem__, default="")
    if "onnxruntime" in times and ours:
        print(f"  {ours}: {times['onnxruntime'] / times[ours]:.2f} times as fast as onnxruntime in float32")
    dense = min((name for name in INT8 if name in times), key=times.__getitem__, default="")
    if dense and "block16_int8" in times:
        print(f"  block16_int8: {times[dense] / times['block16_int8']:.2f} times as fast as {dense}")
    sys.stdout.flush()


def run(options: argparse.Namespace, layer: str, hidden: int) -> list[dict[str, Any]]:
    """The tables of one model."""
    torch.manual_seed(0)
    model = LanguageModel(options.vocabulary, hidden, [hidden, hidden], layer=LAYERS[layer]).eval()
    macs, each, found = macs_per_token(model) / 1e6, candidates(model, options), []
    for batch in options.batches:
        how = f"batch {batch}" if options.window is None else f"batch {batch}, windows of {options.window}"
        print(f"\n{layer} 2 x {hidden}, {how}: {macs:.1f} M multiply-accumulates per token if dense")
        clock = time.thread_time if options.threads == 1 else time.perf_counter
        tokens = 2 if hidden > 500 else 8
        rows = measure_latency(
            each,
            batch,
            repeats=options.repeats,
            tokens=tokens if options.window is None else 1,
            clock=clock,
            window=options.window,
        )
        show(rows)
        found += [{"layer": layer, "hidden": hidden, "density": options.density, **row} for row in rows]
    return found


def main() -> None:
    """Prints the tables."""
    options = arguments()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.threads} thread(s); {versions()}; {kernels.describe()}")
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
