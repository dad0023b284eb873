"""Milliseconds of the forget-mult recurrence, and of training steps of the QRNN language model.

    python benchmarks/qrnn.py                     everything at its published size (about 10 minutes)
    python benchmarks/qrnn.py --only recurrence   the recurrence alone; also: steps
    python benchmarks/qrnn.py --quick             small sizes, to see that it runs

The recurrence, c_t = f_t z_t + (1 - f_t) c_(t-1), forward and backward: `naive` steps through time under autograd,
`loop` and `chunks` are the twins in torch, `compiled` the kernel. `floor` is an element-wise product of torch that
moves the same bytes: three tensors forwards (f and z in, c out), six backwards (the gradient of c, f, z and c in, two
gradients out). What does not fit into the caches cannot be much faster.

A step of the model reads a window, and makes forward, backward, clipping and Adam. `naive` differs from `plain` in
its recurrence alone. The rows below estimate the gradient beyond the window, each with a synthesizer of its own
(element-wise of 50 units: cell and axis; or one network for the whole state); the last one lets it learn and does not
listen. All share one process, one setting of memory allocation, and take turns, round by round.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn import kernels
from sparsernn.core.states import detached
from sparsernn.gradients import SyntheticGradient, Truncate
from sparsernn.models import LanguageModel
from sparsernn.nn import QRNN
from sparsernn.nn.cells import forget_mult as recurrence
from sparsernn.runs.malloc import keep_buffers

Step = Callable[[], object]
FULL = {"shapes": [(200, 20, 1550), (101_000, 1, 50)], "window": 200, "vocabulary": 10_000, "scale": 1}
QUICK = {"shapes": [(50, 4, 310), (2_000, 1, 50)], "window": 40, "vocabulary": 500, "scale": 10}


# --- the recurrence


@contextmanager
def way(name: str) -> Iterator[None]:
    """The operation worked out in one of its ways: naive, loop, chunks or compiled."""
    before = recurrence.LOOP_STEPS_UP_TO, recurrence.LOOP_CHANNELS_FROM, recurrence.forget.takes
    if name in ("loop", "chunks"):
        recurrence.forget.takes = lambda *tensors: False
        recurrence.LOOP_STEPS_UP_TO = 10**9 if name == "loop" else 0
        recurrence.LOOP_CHANNELS_FROM = 10**9
    yield
    recurrence.LOOP_STEPS_UP_TO, recurrence.LOOP_CHANNELS_FROM, recurrence.forget.takes = before


def forth_and_back(name: str, f: Tensor, z: Tensor, c0: Tensor, d: Tensor) -> tuple[float, float]:
    """Seconds of forward and of backward."""
    operation = recurrence.forget_mult_naively if name == "naive" else recurrence.forget_mult
    with way(name):
        started = time.perf_counter()
        c = operation(f, z, c0)
        between = time.perf_counter()
        torch.autograd.grad(c, (f, z, c0), d)
        return between - started, time.perf_counter() - between


def moving(f: Tensor, z: Tensor, out: Tensor) -> tuple[float, float]:
    """Seconds that torch takes to move the bytes of forward and of backward."""
    seconds = []
    for times in (1, 2):
        started = time.perf_counter()
        for _ in range(times):
            torch.mul(f, z, out=out)
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def time_recurrence(shape: tuple[int, int, int], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every way, in turns, after a round of warm-up."""
    f, z, d = (
        torch.rand(shape, requires_grad=True),
        torch.randn(shape, requires_grad=True),
        torch.randn(shape),
    )
    c0, out = torch.zeros(shape[1:], requires_grad=True), torch.empty(shape)
    names = ["naive", "loop", "chunks", *(["compiled"] if kernels.available() else []), "floor"]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            flat = name == "floor"
            seconds = moving(f.detach(), z.detach(), out) if flat else forth_and_back(name, f, z, c0, d)
            if number:
                times[name].append(seconds)
    return times


def show_recurrence(shape: tuple[int, int, int], times: Mapping[str, list[tuple[float, float]]]) -> None:
    """One line for each way."""
    numbers = shape[0] * shape[1] * shape[2]
    print(f"\nforget-mult, T {shape[0]}, B {shape[1]}, H {shape[2]}; milliseconds, medians (least)")
    print(f"{'':10}{'forward':>20}{'backward':>20}{'both':>12}{'naive / it':>12}{'GB/s':>8}")
    together = {name: statistics.median(a + b for a, b in taken) for name, taken in times.items()}
    for name, taken in times.items():
        parts = list(zip(*taken, strict=True))
        cells = "".join(f"{statistics.median(p) * 1e3:10.1f} ({min(p) * 1e3:7.1f})" for p in parts)
        both = together[name]
        # nine tensors of four bytes each
        speed = f"{9 * 4 * numbers / both / 1e9:8.1f}"
        print(f"{name:10}{cells}{both * 1e3:12.1f}{together['naive'] / both:12.1f}{speed}")


# --- training steps


class NaiveQRNN(QRNN):
    """The layer with a recurrence that steps through time under autograd."""

    def _recur(self, z: Tensor, f: Tensor, i: Tensor | None, write: Tensor | float, c0: Tensor) -> Tensor:
        return recurrence.forget_mult_naively(f, z, c0)


def language_model(sizes: Mapping[str, Any]) -> LanguageModel:
    """The published model: 400-1550-1550-1550-400, tied."""
    embedding, hidden = 400 // sizes["scale"], 1550 // sizes["scale"]
    layers = [{"name": "qrnn", "window": 2, "weight_drop": 0.1}, *[{"name": "qrnn", "weight_drop": 0.1}] * 3]
    dropout = {"embedding": 0.1, "input": 0.4, "hidden": 0.3, "output": 0.4, "locked": True}
    widths = [hidden, hidden, hidden, embedding]
    return LanguageModel(
        sizes["vocabulary"], embedding, widths, layer=layers, tied=True, dropout=dropout
    ).train()


def plain_step(sizes: Mapping[str, Any]) -> Step:
    """One step of truncated backpropagation, the state carried."""
    return truncated(language_model(sizes), sizes)


def naive_step(sizes: Mapping[str, Any]) -> Step:
    """The same with the naive recurrence."""
    model = language_model(sizes)
    for layer in model.layers:
        layer.__class__ = NaiveQRNN
    return truncated(model, sizes)


def synthetic(source: str = "synthetic", **synthesizer: Any) -> Callable[[Mapping[str, Any]], Step]:
    """Builds the step with an estimate of what follows; in real epochs the synthesizer learns unheard."""

    def build(sizes: Mapping[str, Any]) -> Step:
        model = language_model(sizes)
        boundary = SyntheticGradient(model, 0, 1, synthesizer=synthesizer, start=source, gamma=0.1)
        return truncated(model, sizes, boundary)

    return build


def truncated(model: LanguageModel, sizes: Mapping[str, Any], boundary: Truncate | None = None) -> Step:
    """Loss with AR and TAR, one backward, clip, Adam."""
    boundary = boundary or Truncate()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1.2e-6)
    words = torch.randint(sizes["vocabulary"], (sizes["window"] + 1, 20))
    carried = [model.initial_state(20)]

    def step() -> None:
        features = model(words[:-1], boundary.enter(carried[0], first=False))
        loss = model.head.nll(features.dropped, words[1:]).mean()
        loss = loss + 2 * features.dropped.square().mean() + features.raw.diff(dim=0).square().mean()
        optimizer.zero_grad()
        roots, gradients = boundary.roots(features.state, words[1:].numel(), last=False)
        torch.autograd.backward([loss, *roots], [None, *gradients])
        boundary.learn()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2, foreach=True)
        optimizer.step()
        carried[0] = detached(features.state)

    return step


STEPS: dict[str, Callable[[Mapping[str, Any]], Step]] = {
    "plain": plain_step,
    "naive": naive_step,
    "qrnn-flat": synthetic(name="elementwise", cell={"name": "qrnn", "zoneout": 0.1}, axis="flat", noise=0.5),
    "qrnn-units": synthetic(name="elementwise", cell="qrnn", axis="units", noise=0.5),
    "gru-time": synthetic(name="elementwise", cell="gru", axis="time", noise=0.5),
    "lstm-time": synthetic(name="elementwise", cell="lstm", axis="time", noise=0.5),
    "mlp": synthetic(name="mlp"),
    "qrnn-units, real epochs": synthetic("real", name="elementwise", cell="qrnn", axis="units", noise=0.5),
}
"""Name -> what builds a step; the first one is what the others are compared with."""


def time_steps(names: list[str], sizes: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step, in turns, after a round of warm-up."""
    steps = {}
    for name in names:
        torch.manual_seed(0)
        steps[name] = STEPS[name](sizes)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def show_steps(sizes: Mapping[str, Any], times: Mapping[str, list[float]]) -> None:
    """One line for each kind."""
    print(f"\nlanguage model, B 20, window {sizes['window']}; milliseconds per step, medians (least)")
    print(f"{'':30}{'step':>22}{'it / plain':>12}")
    first = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:30}{middle * 1e3:12.1f} ({min(taken) * 1e3:7.1f}){middle / first:12.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds")
    parser.add_argument("--only", choices=["recurrence", "steps"])
    parser.add_argument("--steps", nargs="*", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_buffers()
    sizes, rounds = (QUICK, 2) if options.quick else (FULL, options.rounds)
    from sparsernn.runs.assembly import processor

    versions = f"torch {torch.__version__}, {platform.python_version()}; {kernels.describe()}"
    print(f"{processor()}, {options.threads} threads, {versions}")
    if options.only != "steps":
        for shape in sizes["shapes"]:
            show_recurrence(shape, time_recurrence(shape, rounds))
    if options.only != "recurrence":
        show_steps(sizes, time_steps(options.steps, sizes, rounds))


if __name__ == "__main__":
    main()
