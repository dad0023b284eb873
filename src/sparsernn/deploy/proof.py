"""Whether two models put out the same, on the data of a task, in float64."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from sparsernn.contracts import Batch, Model, Task
from sparsernn.core.errors import InputError
from sparsernn.core.states import tensors
from sparsernn.structure.observation import CLOSE, distance, doubled

WINDOWS = 4
"""Batches that are compared: one shows the outputs, the next ones that the carried state is right too."""


@dataclass(frozen=True)
class Proof:
    """The largest difference of two models' outputs.

    Attributes:
        difference: the largest one of all numbers compared.
        loss: the largest difference of a batch's mean nats.
        batches: how many batches were read, the state carried from each to the next.
        numbers: how many numbers were compared.
    """

    difference: float
    loss: float
    batches: int
    numbers: int

    @property
    def holds(self) -> bool:
        """Whether the models are the same but for rounding."""
        return max(self.difference, self.loss) <= CLOSE


@torch.no_grad()
def prove(task: Task, before: Model, after: Model, windows: int = WINDOWS, seed: int = 0) -> Proof:
    """Read the same training batches with both models, dropouts off, each carrying its own state.

    Args:
        task: whose batches are read.
        before: a model; copied to float64, left as it is.
        after: another one.
        windows: how many batches of the first epoch, at most.
        seed: of the batches.

    Raises:
        InputError: the models put out nothing of the same shape.
    """
    readers = [_Reader(task, copy.deepcopy(model).double().eval()) for model in (before, after)]
    largest, loss, numbers, batches = 0.0, 0.0, 0, 0
    for batch in islice(task.batches(seed, 0), windows):
        (first, nats), (second, other) = readers[0].read(batch), readers[1].read(batch)
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.shape == b.shape]
        if not pairs:
            raise InputError("the two models put out nothing of the same shape, so they cannot be compared.")
        largest = max([largest, *(distance(a, b) for a, b in pairs)])
        loss, batches = max(loss, distance(torch.tensor(nats), torch.tensor(other))), batches + 1
        numbers += sum(a.numel() for a, _ in pairs)
    return Proof(largest, loss, batches, numbers)


class _Reader:
    """A model that reads a task's batches one after the other and shows what it put out."""

    def __init__(self, task: Task, model: Model) -> None:
        self.task, self.model = task, model
        self.state = model.initial_state(task.batch_size)
        self.outputs: list[object] = []
        model.register_forward_pre_hook(_widened, with_kwargs=True)
        model.register_forward_hook(lambda module, args, output: self.outputs.append(output))

    def read(self, batch: Batch) -> tuple[list[Tensor], float]:
        """The outputs, and the mean nats."""
        self.outputs.clear()
        counted = self.task.state_dict()
        nats, _, self.state = self.task.loss(self.model, batch, self.state)
        self.task.load_state_dict(counted)
        return [t for output in self.outputs for t in answers(self.model, output)], float(nats)


def answers(model: nn.Module, output: object) -> Iterator[Tensor]:
    """The numbers that a forward pass is for: what a model of this library says they are, else all tensors."""
    yield from model.answers(output) if isinstance(model, Model) else tensors(output)


def _widened(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Floating inputs as float64."""
    return tuple(doubled(a) for a in args), {key: doubled(value) for key, value in kwargs.items()}
