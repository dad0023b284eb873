"""Seconds per training step of the long-memory networks, ours against the plain way, side by side in one run.

    python benchmarks/long_memory.py                       both tables (about 4 minutes on 2 threads)
    python benchmarks/long_memory.py --quick               fewer rounds, and for characters nnRNN and LSTM alone
    python benchmarks/long_memory.py copying --threads 1   one table

A step is that of the training loop with a recipe's model and optimizer: batch, loss, penalty, backward, clipping,
optimizer. `copying`: delay 200, 128 wide, batch 10. `characters`: 1024 wide, windows of 150, batch 128, random
letters of an alphabet of 50, for the arithmetic does not depend on them.

`naive` is the same network written down as its equations: every time step under autograd, the recurrent matrix made
the way that was published. For the orthogonal part that is torch.linalg.matrix_exp, whose derivative is the
exponential of a matrix twice as large; for rotations it is the layers, one after another, at every time step. It has
this library's setting for memory allocation too. The two live in processes of their own and take turns.

`map` is what the recurrent matrix and the gradient through it take of our step, in the same process, in turn with it.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.registry import make
from sparsernn.models import MODELS
from sparsernn.nn import LSTM
from sparsernn.nn.drive.cell import Cell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.maps import Normal, Orthogonal, RecurrentMap, Rotations
from sparsernn.nn.maps.skew import skew_matrix
from sparsernn.optim import OPTIMIZERS, make_learning_rate, parameter_groups
from sparsernn.runs.clipping import clip
from sparsernn.runs.malloc import keep_buffers
from sparsernn.runs.recipe import Recipe, load_recipe

NETWORKS = ("nnrnn", "exprnn", "rnn", "lstm", "eurnn")
LETTERS, WINDOW, STREAMS = 50, 150, 128
"""Characters of the Penn Treebank as published."""
ORDERS = ("naive", "ours", "map")


class PlainLSTM(Cell):
    """The LSTM's equations; our layer runs on torch's fused kernel."""

    parts = 2

    def __init__(self, layer: LSTM) -> None:
        super().__init__()
        self.layer, self.input_size, self.hidden_size = layer, layer.input_size, layer.hidden_size

    def project(self, x: Tensor) -> Tensor:
        """All gates' inputs."""
        return functional.linear(x, self.layer.weight_ih, self.layer.bias_ih + self.layer.bias_hh)

    def step(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step."""
        i, f, g, o = (functional.linear(state[0], self.layer.weight_hh) + u).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class PlainElman(Cell):
    """h' = modReLU(u + V h) with the map made the published way, or its rotations layer by layer."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell, self.input_size, self.hidden_size = cell, cell.input_size, cell.hidden_size
        self.v: Tensor | None = None
        self.layers: list[tuple[Tensor, Tensor, int]] = []

    def project(self, x: Tensor) -> Tensor:
        """U x + c of all steps; V is made here, once per window."""
        self.v = published_matrix(self.cell.map)
        self.layers = turning(self.cell.map) if self.v is None else []
        return functional.linear(x, self.cell.weight_ih, self.cell.bias_ih)

    def step(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step."""
        h = state[0]
        pre = u + (layered(self.layers, h) if self.v is None else functional.linear(h, self.v))
        return (pre.sign() * (pre.abs() + self.cell.bias_modrelu).relu(),)

    def penalty(self) -> Tensor | float:
        """That of the map."""
        penalty: Tensor | float = self.cell.penalty()
        return penalty


def published_matrix(map: RecurrentMap) -> Tensor | None:
    """V under plain autograd; None where the published code never makes it."""
    if isinstance(map, Rotations):
        return None
    if not isinstance(map, Normal | Orthogonal):
        return map()
    p: Tensor = torch.linalg.matrix_exp(skew_matrix(map.skew, map.places, map.hidden_size))
    p = p if map.base is None else map.base @ p
    return p @ map.theta() @ p.mT if isinstance(map, Normal) else p


def turning(map: Rotations) -> list[tuple[Tensor, Tensor, int]]:
    """Of each layer of tunable rotations the cosines and the signed sines of all units, and its first unit."""
    first, layers = 0, []
    for turn in map.layers:
        pairs = (map.hidden_size - 2 * turn.start) // 2
        angle, first = map.angle[first : first + pairs], first + pairs
        still = angle.new_ones(turn.start)
        cos = torch.cat((still, angle.cos().repeat_interleave(2), still))
        sin = torch.stack((-angle.sin(), angle.sin()), 1).flatten()
        layers.append((cos, functional.pad(sin, (turn.start, turn.start)), turn.start))
    return layers


def layered(layers: list[tuple[Tensor, Tensor, int]], h: Tensor) -> Tensor:
    """h V', layer after layer: the units with the cosines, their partners with the sines."""
    for cos, sin, start in layers:
        partners = h[:, start : h.shape[1] - start].unflatten(1, (-1, 2)).flip(2).flatten(1)
        h = h * cos + functional.pad(partners, (start, start)) * sin
    return h


def plain(model: nn.Module) -> nn.Module:
    """The same model with its recurrent layer on the plain loop."""
    layer = model.layers[0]  # type: ignore[index]
    cell = PlainLSTM(layer) if isinstance(layer, LSTM) else PlainElman(layer.cell)  # type: ignore[union-attr]
    model.layers[0] = Recurrent(cell)  # type: ignore[index,operator]
    return model


def copying(recipe: Recipe) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Model and loss of the copying task, batch after batch."""
    from sparsernn.tasks import Copying

    task = Copying(delay=200, batch_size=10, iterations=1_000_000, eval_sequences=1)
    batches = task.batches(0, 0)
    model = make("model", MODELS, recipe.model, **task.sizes)
    return model, lambda network: task.loss(network, next(batches), None)[1]


def characters(recipe: Recipe) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Model and loss of character-level language modelling, the state carried from window to window."""
    model = make("model", MODELS, recipe.model, vocabulary_size=LETTERS)
    carried: list[Any] = [None]

    def loss(network: Any) -> Tensor:
        words = torch.randint(LETTERS, (WINDOW + 1, STREAMS))
        features = network(words[:-1], carried[0])
        carried[0] = tuple(tuple(part.detach() for part in layer) for layer in features.state)
        nats: Tensor = network.head.nll(features.dropped, words[1:]).mean()
        return nats

    return model, loss


TABLES = {
    "copying": (copying, "nnrnn/copy-{}", "copying, delay 200, 128 wide, batch 10"),
    "characters": (characters, "nnrnn/ptb-char-{}", "characters, 1024 wide, window 150, batch 128"),
}


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer with its groups, at its first learning rate."""
    lr = make_learning_rate(recipe.optimizer["lr"], 1000)(0)
    settings = {**recipe.optimizer, "lr": lr}
    groups = parameter_groups(model.named_parameters(), settings.pop("groups", None))
    optimizer: torch.optim.Optimizer = make("optimizer", OPTIMIZERS, settings, params=groups)
    return optimizer


def training_step(table: str, network: str, naive: bool) -> tuple[nn.Module, Callable[[], None]]:
    """The model, and a step of its training."""
    torch.manual_seed(0)
    build, name, _ = TABLES[table]
    recipe = load_recipe(name.format(network))
    model, loss = build(recipe)
    model = plain(model) if naive else model
    optimizer = optimizer_of(recipe, model)
    parameters = list(model.parameters())

    def step() -> None:
        total = loss(model) + model.penalty()  # type: ignore[operator]
        optimizer.zero_grad()
        total.backward()
        clip(parameters, recipe.clip)
        optimizer.step()

    return model, step


def map_alone(model: Any) -> Callable[[], None]:
    """The recurrent matrix as it is now, and a gradient back through it."""
    map = getattr(getattr(model.layers[0], "cell", None), "map", None)
    if not isinstance(map, Normal | Orthogonal | Rotations):
        return lambda: None
    gradient = torch.randn(map.hidden_size, map.hidden_size)
    parameters = list(map.parameters())
    return lambda: torch.autograd.grad(map(), parameters, gradient) and None


def work(pipe: Any, table: str, network: str, naive: bool, threads: int) -> None:
    """A contestant's process."""
    torch.set_num_threads(threads)
    keep_buffers()
    model, step = training_step(table, network, naive)
    actions = {"naive": step, "ours": step, "map": map_alone(model)}
    while (order := pipe.recv()) != "stop":
        started = time.perf_counter()
        actions[order]()
        pipe.send(time.perf_counter() - started)


def measure(table: str, network: str, threads: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round, taken in turns; one round of warm-up."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for kind in ("naive", "ours"):
        pipes[kind], far = context.Pipe()
        arguments = (far, table, network, kind == "naive", threads)
        context.Process(target=work, args=arguments, daemon=True).start()
    times: dict[str, list[float]] = {order: [] for order in ORDERS}
    for number in range(rounds + 1):
        for order in ORDERS:
            pipe = pipes["naive" if order == "naive" else "ours"]
            pipe.send(order)
            seconds = pipe.recv()
            if number:
                times[order].append(1e3 * seconds)
    for pipe in pipes.values():
        pipe.send("stop")
    return times


def head(table: str) -> None:
    """Title and columns of a table."""
    print(f"\n{TABLES[table][2]}")
    print(f"{'':10}{'naive':>20}{'ours':>20}{'naive / ours':>14}{'map':>10}{'of a step':>11}", flush=True)


def show(network: str, times: dict[str, list[float]]) -> None:
    """A row."""
    middle = {order: statistics.median(taken) for order, taken in times.items()}
    cells = "".join(f"{middle[k]:10.1f} ({min(times[k]):7.1f})" for k in ORDERS[:2])
    share = (
        f"{middle['map']:10.1f}{100 * middle['map'] / middle['ours']:9.0f} %" if middle["map"] > 0.01 else ""
    )
    print(f"{network:10}{cells}{middle['naive'] / middle['ours']:14.1f}{share}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    from sparsernn.runs.assembly import processor

    print(
        f"{processor()}, {options.threads} threads, torch {torch.__version__}, Python {platform.python_version()};"
    )
    print("milliseconds of a training step, medians (least)")
    for table in options.tables or TABLES:
        wide = table == "characters"
        chosen = options.networks or (("nnrnn", "lstm") if options.quick and wide else NETWORKS)
        rounds = (
            options.rounds
            or {(True, False): 3, (True, True): 2, (False, False): 21, (False, True): 9}[wide, options.quick]
        )
        head(table)
        for network in chosen:
            show(network, measure(table, network, options.threads, rounds))


if __name__ == "__main__":
    main()
