"""Seconds per training step of the stacked-LSTM language model, against plain torch, side by side in one run.

    python benchmarks/training_step.py                 2x1500, V 10000, batch 20, window 35 (about 3 minutes)
    python benchmarks/training_step.py --width 200     the small model

Every contestant lives in a process of its own, and the processes take turns, step by step, so that a drift of the
machine's speed meets all alike and no one profits from another's settings. `plain` is what a user writes by hand:
nn.Embedding, nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_, torch.optim.SGD.
"""

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, BATCH, WINDOW, DROPOUT, CLIP, DECAY = 10_000, 20, 35, 0.65, 0.25, 1.2e-6
Step = Callable[[], None]


def batches(seed: int):
    """Random words: the arithmetic does not depend on them."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        words = torch.randint(VOCABULARY, (WINDOW + 1, BATCH), generator=generator)
        yield words[:-1], words[1:]


class Plain(nn.Module):
    """The language model that everybody writes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        self.lstm, self.drop = nn.LSTM(width, width, 2, dropout=DROPOUT), nn.Dropout(DROPOUT)

    def forward(self, words, state):
        y, state = self.lstm(self.drop(self.embedding(words)), state)
        return self.head(self.drop(y)), state


def plain(width: int, threads: int) -> tuple[Step, Step]:
    """A step of plain torch; it has no masks to update."""
    model, data = Plain(width), batches(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=DECAY)
    state = [torch.zeros(2, BATCH, width), torch.zeros(2, BATCH, width)]

    def step() -> None:
        words, targets = next(data)
        scores, after = model(words, [s.detach() for s in state])
        state[:] = after
        optimizer.zero_grad()
        functional.cross_entropy(scores.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step, lambda: None


def ours(
    width: int, threads: int, optimizer: str, sparsity: dict[str, Any], product: str = "dense"
) -> tuple[Step, Step]:
    """A step of this library's loop, and its mask update; `product` is that of embedding, layers and head."""
    from sparsernn.core.registry import make
    from sparsernn.models import LanguageModel
    from sparsernn.optim import OPTIMIZERS
    from sparsernn.runs.clipping import clip
    from sparsernn.runs.malloc import keep_buffers
    from sparsernn.sparsity import SPARSIFIERS

    keep_buffers()
    dropout = {"input": DROPOUT, "hidden": DROPOUT, "output": DROPOUT}
    layer, head = {"name": "lstm", "product": product}, {"name": "linear", "product": product}
    embedding = {"name": "dense", "product": product}
    model = LanguageModel(
        VOCABULARY, width, [width, width], layer, head, dropout=dropout, embedding=embedding
    )
    data = batches(0)
    settings = {"name": optimizer, "weight_decay": DECAY}
    if optimizer != "sgd":
        settings["switch_epoch"] = 0
    opt = make("optimizer", OPTIMIZERS, settings, params=model.parameters(), lr=1.0)
    context = {"total_steps": 132_800, "steps_per_epoch": 1328, "epochs": 100, "seed": 0}
    sparsifier = make("sparsity", SPARSIFIERS, sparsity, model=model, optimizer=opt, **context)
    parameters, state = list(model.parameters()), [model.initial_state(BATCH)]
    storage = ExitStack()
    storage.enter_context(sparsifier.condensed())

    def step(kept: ExitStack = storage) -> None:  # what is stored sparsely stays so as long as the step lives
        words, targets = next(data)
        features = model(words, state[0])
        loss = model.head.nll(features.dropped, targets).mean()
        opt.zero_grad()
        loss.backward()
        clip(parameters, CLIP)
        opt.step()
        sparsifier.after_step()
        state[0] = tuple(tuple(s.detach() for s in layer) for layer in features.state)

    return step, lambda: sparsifier.end_epoch() and None


SELFISH = {"name": "selfish", "density": 0.33, "prune_rate": 0.7}
CONTESTANTS: dict[str, tuple[Callable[..., tuple[Step, Step]], dict[str, Any]]] = {
    "plain torch, dense, SGD": (plain, {}),
    "sparsernn, dense, SGD": (ours, {"optimizer": "sgd", "sparsity": {"name": "dense"}}),
    "sparsernn, selfish .33, SGD": (ours, {"optimizer": "sgd", "sparsity": SELFISH}),
    "sparsernn, selfish .33, SNT-ASGD": (ours, {"optimizer": "snt_asgd", "sparsity": SELFISH}),
}


def work(pipe: Any, name: str, width: int, threads: int) -> None:
    """A contestant's process: does what it is told, answers with the seconds it took."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, settings = CONTESTANTS[name]
    actions = dict(zip(("step", "update"), build(width, threads, **settings), strict=True))
    while (order := pipe.recv()) != "stop":
        started = time.perf_counter()
        actions[order]()
        pipe.send(time.perf_counter() - started)


def measure(width: int, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every step and mask update of every contestant, taken in turns; two rounds of warm-up."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for name in CONTESTANTS:
        pipes[name], far = context.Pipe()
        context.Process(target=work, args=(far, name, width, threads), daemon=True).start()
    times: dict[str, dict[str, list[float]]] = {name: {"step": [], "update": []} for name in CONTESTANTS}
    for number in range(rounds + 2):
        for name, pipe in pipes.items():
            for order in ("step", "update") if number % 3 == 2 else ("step",):
                pipe.send(order)
                seconds = pipe.recv()
                if number >= 2:
                    times[name][order].append(seconds)
        print(f"round {number + 1} of {rounds + 2}", file=sys.stderr)
    for pipe in pipes.values():
        pipe.send("stop")
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    times = measure(options.width, options.threads, options.rounds)
    from sparsernn.runs.assembly import processor

    print(
        f"LSTM 2x{options.width}, V {VOCABULARY}, batch {BATCH}, window {WINDOW}; {options.threads} threads;"
    )
    print(
        f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}; medians (least) of steps"
    )
    base = statistics.median(times["plain torch, dense, SGD"]["step"])
    print(f"{'':36}{'s per step':>18}{'over plain':>12}{'mask update, s':>16}")
    for name, taken in times.items():
        middle, update = statistics.median(taken["step"]), statistics.median(taken["update"])
        shown = f"{update:.2f}" if update > 1e-4 else "-"
        print(f"{name:36}{middle:9.3f} ({min(taken['step']):.3f}){middle / base:12.2f}{shown:>16}")
    sgd, snt = (statistics.median(times[f"sparsernn, selfish .33, {o}"]["step"]) for o in ("SGD", "SNT-ASGD"))
    print(f"SNT-ASGD step over SGD step, both masked: {snt / sgd:.2f}")


if __name__ == "__main__":
    main()
