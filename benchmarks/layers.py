"""Seconds per training step of single recurrent layers: the naive loop, ours, and the floor of the matrix products.

    python benchmarks/layers.py                    every layer at its published size (about 10 minutes)
    python benchmarks/layers.py rhn-830 elman-128  only these
    python benchmarks/layers.py --all-sizes        narrow and wide layers, to see that fast is never slower than naive

`naive` is the layer's equations stepped through time under autograd, with the input's product taken once for the
whole window, in a process like any other; `warm` is the same with this library's setting for memory allocation, which
spares it the page faults of large buffers. `floor` is nothing but the products that a step cannot do without, each
with the faster of MKL and oneDNN (weights packed beforehand, at no cost) and every weight in its own place in memory:
per time step one forward and one backward, and per window one for each weight's and the input's gradient. A step is
forward and backward of the layer, without embedding, softmax and optimizer. Every contestant lives in a process of
its own, and they take turns.
"""

import argparse
import itertools
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.nn import LSTM, ONLSTM, RHN, Elman, Stack
from sparsernn.nn.drive.cell import Cell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.drive.step_product import PackedProduct, PlainProduct
from sparsernn.runs.malloc import keep_buffers

Step = Callable[[], object]
KINDS = ("naive", "warm", "fast", "floor")


class PlainLSTM(Cell):
    """The LSTM's equations, for the naive loop: our layer runs on torch's fused kernel."""

    parts = 2

    def __init__(self, layer: LSTM) -> None:
        super().__init__()
        self.layer, self.input_size, self.hidden_size = layer, layer.input_size, layer.hidden_size

    def project(self, x: Tensor) -> Tensor:
        """All gates' inputs."""
        return nn.functional.linear(x, self.layer.weight_ih, self.layer.bias_ih + self.layer.bias_hh)

    def step(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step."""
        pre = nn.functional.linear(state[0], self.layer.weight_hh) + u
        i, f, g, o = pre.chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Size:
    """A layer (or a stack), and the window that it reads."""

    def __init__(self, build: Callable[[], nn.Module], steps: int, batch: int, inputs: int) -> None:
        self.build, self.steps, self.batch, self.inputs = build, steps, batch, inputs

    def __str__(self) -> str:
        return f"T {self.steps}, B {self.batch}"


def onlstm(*widths: int) -> Callable[[], nn.Module]:
    """A stack of ordered-neurons LSTMs."""
    return lambda: Stack([ONLSTM(i, h) for i, h in itertools.pairwise(widths)])


PUBLISHED = {
    "rhn-830": Size(lambda: RHN(830, 830, depth=10, state_dropout=0.25), 35, 20, 830),
    "rhn-1000": Size(lambda: RHN(1000, 1000, depth=10, state_dropout=0.25), 35, 20, 1000),
    "onlstm-1150": Size(onlstm(400, 1150, 1150, 400), 70, 20, 400),
    "onlstm-1300": Size(onlstm(400, 1300, 1300, 400), 70, 20, 400),
    "lstm-1500": Size(lambda: LSTM(1500, 1500), 35, 20, 1500),
    "elman-128": Size(lambda: Elman(10, 128), 220, 10, 10),
    "elman-128-modrelu": Size(lambda: Elman(10, 128, nonlinearity="modrelu"), 220, 10, 10),
    "elman-1024": Size(lambda: Elman(200, 1024), 150, 128, 200),
}
OTHERS = {
    **{f"rhn-{h}": Size(lambda h=h: RHN(h, h, depth=5), 35, 20, h) for h in (32, 128, 200, 400)},  # type: ignore[misc]
    **{f"onlstm-{h}": Size(onlstm(h, h), 35, 20, h) for h in (30, 120, 200, 400)},
    **{f"elman-{h}": Size(lambda h=h: Elman(h, h), 100, 20, h) for h in (32, 256, 512, 1500)},  # type: ignore[misc]
    "elman-128-one-step": Size(lambda: Elman(128, 128), 1, 20, 128),
    "elman-128-two-steps": Size(lambda: Elman(128, 128), 2, 20, 128),
    "rhn-200-two-steps": Size(lambda: RHN(200, 200, depth=5), 2, 20, 200),
    "rhn-830-one-step": Size(lambda: RHN(830, 830), 1, 20, 830),
}


def members(module: nn.Module) -> list[nn.Module]:
    """The layers of a stack, or the one layer."""
    return list(module) if isinstance(module, Stack) else [module]


def slow(layer: nn.Module) -> nn.Module:
    """The same layer on the plain loop."""
    if isinstance(layer, LSTM):
        return Recurrent(PlainLSTM(layer))
    layer.naive = True
    return layer


def layer_step(size: Size, naive: bool) -> Step:
    """Forward and backward of the layers."""
    layers = members(size.build())
    layers = [slow(layer) for layer in layers] if naive else layers
    parameters = [p for layer in layers for p in layer.parameters()]
    x = torch.randn(size.steps, size.batch, size.inputs, requires_grad=True)

    def step() -> None:
        y = x
        for layer in layers:
            y, _ = layer(y)
        y.backward(torch.ones_like(y))
        x.grad = None
        for p in parameters:
            p.grad = None

    return step


def floor_step(size: Size) -> Step:
    """The products of the same layers, and nothing else."""
    parts = [part for layer in members(size.build()) for part in products(layer, size)]

    def step() -> None:
        for part in parts:
            part()

    return step


def products(layer: nn.Module, size: Size) -> list[Step]:
    """Of one layer: the recurrent ones of all time steps, then those of the whole window."""
    weights = {n: p.detach() for n, p in layer.named_parameters() if p.dim() == 2}
    recurrent = [w for n, w in weights.items() if "weight_hh" in n or "map" in n]
    inputs = next(w for n, w in weights.items() if "weight_ih" in n)
    rows = size.steps * size.batch
    forward = [quickest(w, size.batch) for w in recurrent]
    backward = [quickest(w.t(), size.batch) for w in recurrent]
    whole = [torch.randn(rows, w.shape[0]) for w in recurrent]
    hidden, x = torch.randn(rows, recurrent[0].shape[1]), torch.randn(rows, inputs.shape[1])

    def over_time() -> None:
        for _ in range(size.steps):
            for product in forward + backward:
                product()

    def over_the_window() -> None:
        for d in whole:
            torch.mm(d.t(), hidden)
        torch.mm(x, inputs.t())
        torch.mm(whole[0], inputs)
        torch.mm(whole[0].t(), x)

    return [over_time, over_the_window]


def quickest(weight: Tensor, batch: int) -> Step:
    """a W^T by the faster of the two libraries, tried here."""
    a, base = torch.randn(batch, weight.shape[1]), torch.zeros(batch, weight.shape[0])
    candidates: list[Any] = [PlainProduct(weight), PackedProduct(weight, batch)]
    seconds = {}
    for number, product in enumerate(candidates):
        seconds[number] = min(timed(lambda p=product: p(base, a)) for _ in range(20))
    chosen = candidates[min(seconds, key=lambda k: seconds[k])]
    return lambda: chosen(base, a)


def timed(action: Step) -> float:
    """Seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def work(pipe: Any, kind: str, threads: int) -> None:
    """A contestant's process: builds the layer it is told, and takes steps."""
    torch.set_num_threads(threads)
    if kind != "naive":
        keep_buffers()
    step: Step = lambda: None  # noqa: E731
    while (order := pipe.recv()) != "stop":
        if order == "step":
            with torch.set_grad_enabled(kind != "floor"):
                pipe.send(timed(step))
            continue
        torch.manual_seed(0)
        size = {**OTHERS, **PUBLISHED}[order]
        step = floor_step(size) if kind == "floor" else layer_step(size, naive=kind in ("naive", "warm"))
        pipe.send(0.0)


def measure(names: list[str], threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every step of every layer and kind, taken in turns; two rounds of warm-up."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for kind in KINDS:
        pipes[kind], far = context.Pipe()
        context.Process(target=work, args=(far, kind, threads), daemon=True).start()
    times: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in names}
    for name in names:
        for number in range(-1, rounds + 2):
            for kind, pipe in pipes.items():
                pipe.send(name if number < 0 else "step")
                seconds = pipe.recv()
                if number >= 2:
                    times[name][kind].append(seconds)
        print(name, file=sys.stderr)
    for pipe in pipes.values():
        pipe.send("stop")
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layers", nargs="*", choices=[*PUBLISHED, *OTHERS, []])
    parser.add_argument("--all-sizes", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    names = options.layers or list({**OTHERS, **PUBLISHED} if options.all_sizes else PUBLISHED)
    times = measure(names, options.threads, options.rounds)
    from sparsernn.runs.assembly import processor

    print(
        f"{processor()}, {options.threads} threads, torch {torch.__version__}, {platform.python_version()};"
    )
    print("milliseconds of forward and backward, medians (least)")
    heads = "".join(f"{kind:>18}" for kind in KINDS)
    print(f"{'':20}{'window':>14}{heads}{'naive/fast':>12}{'warm/fast':>12}{'fast/floor':>12}")
    for name, taken in times.items():
        middle = {kind: statistics.median(seconds) * 1e3 for kind, seconds in taken.items()}
        cells = "".join(f"{middle[kind]:9.1f} ({min(taken[kind]) * 1e3:6.1f})" for kind in KINDS)
        pairs = (("naive", "fast"), ("warm", "fast"), ("fast", "floor"))
        ratios = "".join(f"{middle[a] / middle[b]:12.2f}" for a, b in pairs)
        print(f"{name:20}{ {**OTHERS, **PUBLISHED}[name]!s:>14}{cells}{ratios}")


if __name__ == "__main__":
    main()
