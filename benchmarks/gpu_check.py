"""Whether a GPU computes what the CPU computes, and how fast the recipes of full size train on it: `make gpu-check`.

    python benchmarks/gpu_check.py                        all of it, under five minutes
    python benchmarks/gpu_check.py --device cpu --tiny    the same program in small, without a GPU

Tables are printed and written to gpu-check.md. Recipes read random words in the shapes of Penn Treebank. The same
step is taken beside it without Triton, by torch's own modules (nn.Embedding, nn.LSTM, nn.Linear, SGD), and with the
naive loop over time where a layer has one; a mask update is timed by itself. Products with blocks of 16 x 1 stand
beside dense ones, and the ways through a window that are chosen between: step by step or in one launch, blocks one by
one or at once, and captured in a CUDA graph. Recipes that the last part of `--minutes` has come for are left out, and
the table says so. Last come the tests that take the card where there is one: of the Triton kernels, and of runs that
are stopped, go on, and are looked at on the CPU.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from recipe_steps import random_run, seconds_per_step
from torch import nn
from torch.nn import functional

from sparsernn.core.devices import chosen, described, moved, wait_for
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.kernels.sparse_products import SparseFactor, value_gradient
from sparsernn.nn import ONLSTM, RHN, BlockLSTM, Elman
from sparsernn.nn.drive import captured_loop, loop_choice
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.runs.assembly import processor
from sparsernn.runs.recipe import load_recipe
from sparsernn.runs.run import Run
from sparsernn.sparsity.dynamic.engine import DynamicSparse

RECIPES = ("selfish/lstm-ptb", "selfish/rhn-ptb", "selfish/onlstm-ptb", "iss/lstm-ptb", "awd/qrnn-ptb")
WAYS = ("first", "second")
TINY = ("task.window=6", "task.batch_size=2", "task.eval_batch_size=2")
SUITE = (
    "tests/nn/test_triton_rules.py",
    "tests/nn/test_whole_window.py",
    "tests/nn/test_whole_ordered.py",
    "tests/nn/test_batched_lstm.py",
    "tests/nn/test_forget_mult.py",
    "tests/nn/test_sparse_products.py",
    "tests/device/test_on_card.py",
)
CHOSEN = "triton or on_card or the_device or in_one_launch"
"""Of these, the tests that would take the card: by pytest's -k."""
SUITE_SECONDS = 60
"""Of the time that there is, what they may take; kernels are compiled once."""
ROOT = Path(__file__).parents[1]
PTB_TOKENS = 929_589
CLOSE = 1e-4
"""Largest relative difference of a first loss between CPU and device, whose float32 sums are in another order."""


def first_loss(recipe: str, settings: list[str], folder: Path, words: int, tokens: int) -> float:
    """Of the first window, without dropouts, which each device draws by itself."""
    run = random_run(recipe, settings, folder, words, tokens)
    run.model.eval()
    batch = moved(next(iter(run.task.batches(0, 0))), run.device)
    with torch.no_grad():
        return float(run.task.loss(run.model, batch, run.model.initial_state(run.task.batch_size))[0])


def plain_seconds(run: Run, words: int, steps: int) -> float:
    """A step of nn.LSTM layers as wide as the run's, by hand."""
    device, widths = run.device, [layer.hidden_size for layer in run.model.layers.members]
    sizes = [run.model.layers.members[0].input_size, *widths]
    embedding, head = nn.Embedding(words, sizes[0]).to(device), nn.Linear(widths[-1], words).to(device)
    layers = [nn.LSTM(i, h).to(device) for i, h in zip(sizes, widths, strict=False)]
    parts = nn.ModuleList([embedding, *layers, head])
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.1)
    read = torch.randint(words, (run.task.window, run.task.batch_size), device=device)
    for number in range(steps + 2):
        if number == 2:  # the first two choose kernels
            wait_for(device)
            start = time.perf_counter()
        y = embedding(read)
        for layer in layers:
            y, _ = layer(y)
        optimizer.zero_grad()
        functional.cross_entropy(head(y).flatten(0, 1), read.flatten()).backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 0.25)
        optimizer.step()
    wait_for(device)
    return (time.perf_counter() - start) / steps


def naive_parts(run: Run) -> list[Recurrent]:
    """The layers that have a naive loop beside the fast one."""
    return [part for part in run.model.modules() if isinstance(part, Recurrent)]


def naively(run: Run) -> bool:
    """Let all layers that can use the naive loop; whether there is one."""
    found = naive_parts(run)
    for part in found:
        part.naive = True
    return bool(found)


def device_tests(tiny: bool) -> str:
    """What pytest says of the tests that take the card; in small it only looks for them."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", CHOSEN, *SUITE]
    command += ["--collect-only", "-n", "0"] if tiny else ["-n", str(min(4, os.cpu_count() or 1))]
    # asked for before the first product, as `deterministic: true` has it
    known = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=SUITE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"not done after {SUITE_SECONDS} s"
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    return last if done.returncode == 0 else f"FAILED: {last}"


def timed(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Milliseconds of a piece of work."""
    for number in range(repeats + 2):
        if number == 2:  # the first two compile and choose kernels
            wait_for(device)
            start = time.perf_counter()
        work()
    wait_for(device)
    return 1e3 * (time.perf_counter() - start) / repeats


def block_products(device: torch.device, tiny: bool) -> list[str]:
    """A table: milliseconds of products of an LSTM's input weight, dense and in blocks of 16 rows x 1 column."""
    rows, columns = (64, 32) if tiny else (6000, 1500)
    lines = [
        f"| {columns} -> {rows} | rows of x | forth | back | gradient |",
        "| :-- | --: | --: | --: | --: |",
    ]
    weight = torch.randn(rows, columns, device=device)
    for n in (20, 700):
        x, y = torch.randn(n, columns, device=device), torch.randn(n, rows, device=device)
        for density in (1.0, 0.33, 0.1):
            mask = (torch.rand(rows // 16, columns) < density).repeat_interleave(16, 0)
            layout = Layout(mask)
            factor = SparseFactor(layout, layout.take(weight))
            ways = (
                lambda f=factor, x=x: f.forward(None, x),
                lambda f=factor, y=y: f.back(None, y),
                lambda own=layout, x=x, y=y: value_gradient(own, x, y),
            )
            if density == 1.0:
                ways = (lambda x=x: x @ weight.t(), lambda y=y: y @ weight, lambda x=x, y=y: y.t() @ x)
            times = " | ".join(f"{timed(way, device):.3f}" for way in ways)
            lines.append(f"| {'dense' if density == 1.0 else f'blocks, density {density}'} | {n} | {times} |")
    return lines


def outcome(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What a layer gives, and the gradients of all its parameters."""
    layer.zero_grad()
    y, _ = layer(x)
    y.square().mean().backward()
    return [y.detach(), *(p.grad for p in layer.parameters())]


def away_from(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest difference, against the largest number of the tensor that it is in."""
    pairs = [(ours.cpu(), right) for ours, right in zip(found, exact, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def loops(device: torch.device, tiny: bool) -> list[str]:
    """A table: each way through a window, forth and back, against the same on the CPU in float64."""
    width, steps, batch = (16, 12, 2) if tiny else (128, 200, 100)
    made = (
        ("Elman, orthogonal", steps, batch, Elman(10, width, map="orthogonal", nonlinearity="modrelu")),
        ("RHN, 5 deep", steps // 4, batch // 2, RHN(10, 2 * width, depth=5)),
        ("ON-LSTM", steps // 2, batch // 2, ONLSTM(10, 3 * width // 2, chunk_size=8)),
        ("block LSTM, 5 blocks", steps // 3, batch // 2, BlockLSTM(4 * width, 5 * width, blocks=5)),
    )
    lines = ["| window | way | ms | off the CPU's | |", "| :-- | :-- | --: | --: | :-- |"]
    for name, steps, batch, layer in made:
        x = torch.randn(steps, batch, layer.input_size)
        exact = [t.float() for t in outcome(layer.double(), x.double())]
        layer, there = layer.float().to(device), x.to(device)
        with patch.object(loop_choice, "_chosen", {}):
            outcome(layer, there)
            taken = ", ".join(loop_choice._chosen.values()) or "the only one"
        for number, way in enumerate(WAYS):
            with patch.object(loop_choice, "fastest", lambda _, __, ways, ___, n=number: list(ways)[n]):
                milliseconds = timed(lambda one=layer, x=there: outcome(one, x), device)
                away = away_from(outcome(layer, there), exact)
            far = "" if away <= CLOSE else " TOO FAR"
            lines.append(f"| {name} | {way} | {milliseconds:.2f} | {away:.1e}{far} | taken: {taken} |")
        if device.type == "cuda":
            lines.append(f"| {name} | {captured(layer, there, exact, device)} |")
    return lines


def captured(
    layer: Recurrent | BlockLSTM, x: torch.Tensor, exact: list[torch.Tensor], device: torch.device
) -> str:
    """The cells of a window that goes step by step, all blocks at once, captured in a CUDA graph."""
    layer.captured, number = True, int(isinstance(layer, BlockLSTM))
    with patch.object(loop_choice, "fastest", lambda _, __, ways, ___: list(ways)[number]):
        try:
            for _ in range(captured_loop.AFTER):
                outcome(layer, x)
            milliseconds = timed(lambda: outcome(layer, x), device)
            away = away_from(outcome(layer, x), exact)
        except RuntimeError as error:  # the rest of the tables is wanted nevertheless
            return f"captured | | | FAILED: {str(error).splitlines()[0]}"
    far = "" if away <= CLOSE else " TOO FAR"
    return f"captured | {milliseconds:.2f} | {away:.1e}{far} | the {WAYS[number]} way, as a graph"


def mask_update(run: Run) -> str:
    """Milliseconds of one mask update; "none" where the method has none."""
    if not isinstance(run.sparsifier, DynamicSparse):
        return "none"
    run.sparsifier.update()
    wait_for(run.device)
    start = time.perf_counter()
    run.sparsifier.update()
    wait_for(run.device)
    return f"{1e3 * (time.perf_counter() - start):.1f}"


def without_kernels(work: Callable[[], float]) -> float:
    """What a piece of work says where torch's own operations do all of it on a GPU."""
    with patch.dict(os.environ, SPARSERNN_NO_KERNELS="1"):
        return work()


def goal(recipe: str, seconds: float, run: Run, slow: float | None) -> str:
    """What was hoped for on an H100, beside what came of it; "" for nothing."""
    if recipe == "selfish/lstm-ptb":
        steps = PTB_TOKENS // (run.task.batch_size * run.task.window)
        return f"100 epochs in {100 * steps * seconds / 60:.1f} minutes (goal: 10)"
    if slow is not None:
        return f"{slow / seconds:.1f} times the naive loop (goal: 20)"
    return ""


def product_rate(device: torch.device, size: int, repeats: int = 10) -> float:
    """Float32 operations a second in a product of square matrices, the peak that a step is held against."""
    matrix = torch.randn(size, size, device=device)
    for number in range(repeats + 2):
        if number == 2:  # the first two choose kernels
            wait_for(device)
            start = time.perf_counter()
        matrix @ matrix
    wait_for(device)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def share_of_peak(run: Run, seconds: float, peak: float) -> str:
    """Of `product_rate`: 6 operations a weight and token, embeddings looked up counting nothing."""
    weights = sum(p.numel() for n, p in run.model.named_parameters() if not n.startswith("embedding"))
    return f"{6 * weights * run.task.window * run.task.batch_size / seconds / peak:.1%}"


def as_graphs(recipe: str, settings: list[str], given: argparse.Namespace) -> str:
    """Seconds of a step whose loops are captured; the rest of the table is wanted where that fails."""
    steps = max(given.steps, 4 * captured_loop.AFTER)
    try:
        own = [*settings, "cuda_graphs=true"]
        return f"{seconds_per_step(recipe, own, steps, given.words, given.tokens)[0]:.4f}"
    except RuntimeError as error:
        return f"FAILED: {str(error).splitlines()[0]}"


def row(recipe: str, settings: list[str], given: argparse.Namespace, folder: Path) -> str:
    """A recipe's line of the table."""
    place = folder / recipe.replace("/", "-")
    here = first_loss(recipe, [*settings, "device=cpu"], place / "cpu", given.words, given.tokens)
    there = first_loss(
        recipe, [*settings, f"device={given.device}"], place / "device", given.words, given.tokens
    )
    away = abs(here - there) / abs(here)
    settings = [*settings, f"device={given.device}", "log_every=2"]
    seconds, run = seconds_per_step(recipe, settings, given.steps, given.words, given.tokens)
    plainly = without_kernels(
        lambda: seconds_per_step(recipe, settings, given.steps, given.words, given.tokens)[0]
    )
    slow = None
    if naive_parts(run):
        slow = seconds_per_step(recipe, settings, given.steps, given.words, given.tokens, naively)[0]
    graphs = None
    if slow is not None and torch.device(given.device).type == "cuda":
        graphs = as_graphs(recipe, settings, given)
    cells = (
        recipe,
        f"{seconds:.4f}",
        graphs or "none",
        share_of_peak(run, seconds, given.peak),
        f"{plainly:.4f}",
        f"{plain_seconds(run, given.words, given.steps):.4f}",
        "none" if slow is None else f"{slow:.4f}",
        mask_update(run),
        f"{away:.1e}{'' if away <= CLOSE else ' TOO FAR'}",
        goal(recipe, seconds, run, slow),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=3.5, help="for the recipes")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    given = parser.parse_args()
    device, started = chosen(given.device), time.monotonic()
    given.words, given.tokens = (50, 2000) if given.tiny else (10_000, 200_000)
    given.steps = 6 if given.tiny else given.steps
    given.peak = product_rate(device, 256 if given.tiny else 8192)
    lines = [
        f"{described(device)}; {processor()}, torch {torch.__version__}, Python {platform.python_version()}; "
        f"float32, whose products reach {given.peak:.2e} operations a second here",
        "",
        "| recipe | seconds a step | as CUDA graphs | of peak | without Triton | nn.LSTM, as wide | naive loop "
        "| mask update, ms (goal: 20) | loss off the CPU's | |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as place:
        for recipe in given.recipes:
            late = time.monotonic() - started > 60 * given.minutes * (1 - 1 / (1 + len(given.recipes)))
            settings = [*TINY, *tiny_sizes(recipe)] if given.tiny else []
            lines.append(
                f"| {recipe} | no time left |" if late else row(recipe, settings, given, Path(place))
            )
            print(lines[-1], flush=True)
    said = device_tests(given.tiny)
    ways = loops(device, given.tiny)
    last = ["", *block_products(device, given.tiny), "", *ways, "", f"tests that take the card: {said}"]
    print("\n".join(last), flush=True)
    lines += last
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if any("TOO FAR" in line or "FAILED" in line for line in lines):
        raise SystemExit(1)


def tiny_sizes(recipe: str) -> list[str]:
    """Widths in small, as many layers as before."""
    model = load_recipe(recipe).model
    layers = len(model["hidden_sizes"])
    chunks = ["model.layer.chunk_size=4"] if "chunk_size" in str(model.get("layer")) else []
    return ["model.embedding_size=16", f"model.hidden_sizes={[16] * layers}", *chunks]


if __name__ == "__main__":
    main()
