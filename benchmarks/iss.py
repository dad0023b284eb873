"""What group lasso costs in training, and what the removal of units brings in inference.

    python benchmarks/iss.py                     the published LSTM 2x1500 and highway network 830 x 10 (some minutes)
    python benchmarks/iss.py --only lstm         one of them; also: rhn
    python benchmarks/iss.py --only latency      inference of the LSTM, dense against what is left of it after ISS
    python benchmarks/iss.py --quick             small sizes, to see that it runs

A step reads a window of 35 steps in 20 streams: forward, backward, the penalty's gradient, clipping, SGD, threshold.
`dense` has no penalty; `autograd` adds the same penalty to the loss, slice by slice, as one would write it, with the
same threshold. All take turns on one model in one process, round by round.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sparsernn import kernels
from sparsernn.core.states import detached
from sparsernn.models import LanguageModel
from sparsernn.runs.clipping import clip
from sparsernn.runs.malloc import keep_buffers
from sparsernn.sparsity import Penalty, Sparsifier, group_lasso

BATCH, WINDOW, CLIP = 20, 35, 10 / 35
Clock = Callable[[], float]

NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": {"embedding_size": 1500, "hidden_sizes": [1500, 1500], "layer": "lstm"},
    "rhn": {
        "embedding_size": 830,
        "hidden_sizes": [830],
        "layer": {"name": "rhn", "depth": 10},
        "tied": True,
    },
}
STRENGTH = {"lstm": 0.00245, "rhn": 0.005}


class Autograd(Penalty):
    """The penalty as a part of the graph."""

    def __init__(self, model: LanguageModel, own: Penalty, strength: float) -> None:
        super().__init__(model)
        self.layers, self.own, self.strength = model.units(), own, strength

    def penalty(self) -> torch.Tensor:
        """strength * sum of the norms of all units."""
        return self.strength * sum((units.squares() + 1e-8).sqrt().sum() for units in self.layers)

    def after_backward(self) -> None:
        """Nothing: the backward pass has done it."""

    def project(self) -> None:
        """The same threshold."""
        self.own.project()


class Bench:
    """A network and its steps.

    Args:
        name: one of `NETWORKS`.
        quick: small sizes.
        clock: what seconds are read from.
    """

    def __init__(self, name: str, quick: bool, clock: Clock) -> None:
        settings, self.clock = dict(NETWORKS[name]), clock
        if quick:
            settings |= {"embedding_size": 50, "hidden_sizes": [50] * len(settings["hidden_sizes"])}
        self.vocabulary = 500 if quick else 10_000
        torch.manual_seed(0)
        self.model = LanguageModel(self.vocabulary, **settings, init=0.04)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        lasso = group_lasso(self.model, strength=STRENGTH[name], lambda_scale="per_sequence", window=WINDOW)
        naive = Autograd(self.model, lasso, STRENGTH[name] / WINDOW)
        self.ways: dict[str, Sparsifier] = {"dense": Sparsifier(self.model), "iss": lasso, "autograd": naive}
        self.state = self.model.initial_state(BATCH)

    def step(self, way: str) -> float:
        """Seconds of a step."""
        sparsifier = self.ways[way]
        words = torch.randint(self.vocabulary, (WINDOW + 1, BATCH))
        started = self.clock()
        features = self.model(words[:-1], self.state)
        loss = self.model.head.nll(features.dropped, words[1:]).mean() + sparsifier.penalty()
        self.optimizer.zero_grad()
        loss.backward()
        sparsifier.after_backward()
        clip(list(self.model.parameters()), CLIP)
        self.optimizer.step()
        sparsifier.after_step()
        self.state = detached(features.state)
        return self.clock() - started

    def passes(self) -> float:
        """Seconds of what the penalty does in a step, alone: the gradient and the threshold."""
        started = self.clock()
        self.ways["iss"].after_backward()
        self.ways["iss"].after_step()
        return self.clock() - started


def measure(bench: Bench, ways: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step and of the passes alone, after a round of warm-up."""
    times: dict[str, list[float]] = {way: [] for way in [*ways, "passes"]}
    for number in range(rounds + 1):
        for way in ways:
            taken = bench.step(way)
            if number:
                times[way].append(taken)
        taken = bench.passes()
        if number:
            times["passes"].append(taken)
    return times


def show(name: str, bench: Bench, times: dict[str, list[float]]) -> None:
    """Print a network's table."""
    weights = sum(p.numel() for p in bench.model.parameters())
    print(f"\n{name}: {weights:,} weights, batch {BATCH}, window {WINDOW}")
    dense = statistics.median(times["dense"])
    print(f"{'':28}{'ms':>10}{'least':>10}{'over dense':>12}")
    for way, taken in times.items():
        middle, least = statistics.median(taken), min(taken)
        label = "the penalty's passes alone" if way == "passes" else f"step, {way}"
        share = middle / dense
        print(f"{label:28}{1e3 * middle:10.1f}{1e3 * least:10.1f}{share:12.3f}")


LATENCY = {"dense": [1500, 1500], "compacted": [373, 315]}
"""Hidden sizes, the embedding 1500 wide: published, W. Wen et al., 2018, arXiv:1709.05027, table 1."""
STEPS = 30


class Inference:
    """Networks of different widths that read the same words, without gradients.

    Args:
        batch: streams B.
        quick: small sizes.
        clock: what seconds are read from.
    """

    def __init__(self, batch: int, quick: bool, clock: Clock) -> None:
        torch.manual_seed(0)
        shrink, self.clock = (30 if quick else 1), clock
        self.vocabulary = 10_000 // shrink
        self.models = {
            name: LanguageModel(self.vocabulary, 1500 // shrink, [h // shrink for h in hidden]).eval()
            for name, hidden in LATENCY.items()
        }
        self.words = torch.randint(self.vocabulary, (STEPS, batch))

    @torch.no_grad()
    def read(self, name: str, softmax: bool) -> float:
        """Seconds of a window of `STEPS` steps, from the words to the top layer or to the probabilities."""
        model, started = self.models[name], self.clock()
        features = model(self.words)
        if softmax:
            model.head.log_prob(features.raw)
        return self.clock() - started


def latency(quick: bool, clock: Clock, rounds: int) -> None:
    """Print milliseconds per window, dense and compacted taking turns."""
    macs = {name: sum(_macs(h)) for name, h in LATENCY.items()}
    print(f"\nlatency: {LATENCY['dense']} against {LATENCY['compacted']}, embedding 1500, {STEPS} steps")
    print(f"multiply-adds per token: {macs['dense'] / macs['compacted']:.2f} times fewer")
    print(f"{'':28}{'dense ms':>10}{'least':>10}{'compacted':>12}{'least':>10}{'times faster':>14}")
    for batch in (1, 10):
        bench = Inference(batch, quick, clock)
        for softmax in (False, True):
            taken: dict[str, list[float]] = {name: [] for name in LATENCY}
            for number in range(rounds + 1):
                for name in LATENCY:
                    seconds = bench.read(name, softmax)
                    if number:
                        taken[name].append(1e3 * seconds)
            middle = {name: statistics.median(times) for name, times in taken.items()}
            label = f"batch {batch}, {'with' if softmax else 'without'} softmax"
            cells = "".join(
                f"{middle[n]:{w}.1f}{min(taken[n]):10.1f}" for n, w in (("dense", 10), ("compacted", 12))
            )
            print(f"{label:28}{cells}{middle['dense'] / middle['compacted']:14.2f}")


def _macs(hidden: list[int]) -> list[int]:
    """Multiply-adds per token of each layer and of the softmax over 10,000 words."""
    first, second = hidden
    return [4 * first * (1500 + first), 4 * second * (first + second), 10_000 * second]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[*NETWORKS, "latency"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-autograd", action="store_true", help="leave out the way through the graph")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine, with one thread"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_buffers()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(
        f"{kernels.describe()}; {options.threads} threads; torch {torch.__version__}, {platform.python_version()}"
    )
    if options.only in (None, "latency"):
        latency(options.quick, clock, options.rounds)
    for name in [options.only] if options.only in NETWORKS else [] if options.only else list(NETWORKS):
        bench = Bench(name, options.quick, clock)
        ways = ["dense", "iss"] if options.no_autograd else ["dense", "iss", "autograd"]
        show(name, bench, measure(bench, ways, options.rounds))


if __name__ == "__main__":
    main()
