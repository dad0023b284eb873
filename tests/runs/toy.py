"""The smallest task that shares nothing with language modelling: no corpus, no vocabulary, no state."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsernn.contracts import Model
from sparsernn.models import MODELS
from sparsernn.tasks import TASKS, Task
from sparsernn.tasks.task import Tick


class Bits(NamedTuple):
    """Strings of bits and whether each holds an odd number of ones."""

    inputs: Tensor
    targets: Tensor
    lr_scale: float = 1.0


class Parity(Task):
    """Is the number of ones odd? The strings of a split are all there are of its length."""

    def __init__(self, *, bits: int = 5, batch_size: int = 6, good_enough: float = 2.0) -> None:
        self.bits, self.batch_size, self.good_enough = bits, batch_size, good_enough
        self.metric, self.counts = "accuracy", "strings"
        self.info = {"sha256": {"train": f"{bits} bits"}, "made": "on the spot"}
        self.sizes = {"input_size": bits, "output_size": 2}
        self.examples = dict.fromkeys(("train", "valid", "test"), 2**bits)
        codes = torch.arange(2**bits)[:, None] >> torch.arange(bits)
        self.inputs, self.targets = (codes & 1).float(), (codes & 1).sum(1) % 2

    def steps_per_epoch(self, seed: int = 0) -> int:
        """The last batch holds what is left."""
        return -(-len(self.targets) // self.batch_size)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Bits]:
        """A new order in every epoch."""
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(self.targets), generator=generator).split(self.batch_size)
        yield from (Bits(self.inputs[k], self.targets[k]) for k in order[start:])

    def loss(self, model: Any, batch: Bits, state: Any) -> tuple[Tensor, Tensor, None]:
        """Cross entropy; no state."""
        nats = cross_entropy(model(batch.inputs), batch.targets)
        return nats.detach(), nats, None

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Loss and share of right answers."""
        was_training = model.training
        logits = model.eval()(self.inputs)
        model.train(was_training)
        for quarters in range(1, 5):
            tick(quarters / 4)
        right = (logits.argmax(1) == self.targets).double().mean().item()
        return {"loss": cross_entropy(logits, self.targets).item(), "accuracy": right}

    def criterion(self, scores: Any) -> float:
        """The share of wrong answers."""
        return 1 - float(scores["accuracy"])

    def solved(self, scores: Any) -> bool:
        """From a given accuracy on."""
        return bool(scores["accuracy"] >= self.good_enough)


class Network(Model):
    """Two layers, and a buffer that every pass moves."""

    def __init__(self, input_size: int, output_size: int, width: int = 16) -> None:
        layers = (nn.Linear(input_size, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.1))
        super().__init__()
        for number, layer in enumerate((*layers, nn.Linear(width, output_size))):
            self.add_module(str(number), layer)

    def initial_state(self, batch: int) -> None:
        """None."""

    def forward(self, x: Any) -> Any:
        """One after the other."""
        for layer in self.children():
            x = layer(x)
        return x

    def units(self) -> list[Any]:
        """None."""
        return []

    def resized(self, settings: Any) -> Any:
        """As it is."""
        return dict(settings)


def register(monkeypatch: Any) -> None:
    """Let recipes ask for the task and its model by name."""
    monkeypatch.setitem(TASKS, "parity", Parity)
    monkeypatch.setitem(MODELS, "network", Network)
