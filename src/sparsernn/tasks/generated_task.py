"""What tasks that are made on the spot share: fresh training data at every step, fixed sets for evaluation."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved
from sparsernn.core.forms import check_known
from sparsernn.core.limits import Share, Size
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.nn.maps import RecurrentMap
from sparsernn.tasks.batch_parts import check_share, columns
from sparsernn.tasks.gradient_record import LOOKED_AT, lag_record
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.task import Task


class Sequences(NamedTuple):
    """What a sequence model reads and what is scored.

    Attributes:
        inputs: (T, B, I).
        targets: one per time step, (T, B), or one per sequence, (B,).
        lr_scale: factor on the learning rate.
    """

    inputs: Tensor
    targets: Tensor
    lr_scale: float = 1.0


def sequences_of(batch: Sequences, number: int, parts: int) -> Sequences:
    """One of the parts of a batch.

    >>> batch = Sequences(torch.zeros(5, 4, 1), torch.arange(4))
    >>> part = sequences_of(batch, 1, 2)
    >>> part.inputs.shape, part.targets
    (torch.Size([5, 2, 1]), tensor([2, 3]))
    """
    return batch._replace(
        inputs=columns(batch.inputs, number, parts), targets=columns(batch.targets, number, parts, dim=-1)
    )


class Synthetic(Task):
    """A task without data: every batch is drawn anew from its seed, epoch and number.

    A subclass sets its own attributes and then calls this constructor, which draws from it.

    Args:
        batch_size: sequences per step, at least 1.
        iterations: steps that count as an epoch, at least 1: how often is evaluated.
        eval_sequences: sequences of the validation and of the test set, at least 1; the same in all runs.
        good_enough: validation accuracy from which on the training ends; null: never.

    Raises:
        InputError: a number out of range.
    """

    @checked
    def __init__(
        self, *, batch_size: Size, iterations: Size, eval_sequences: Size, good_enough: Share | None = None
    ) -> None:
        self.batch_size, self.iterations, self.good_enough = batch_size, iterations, good_enough
        self.eval_sequences, self.eval_batch_size = eval_sequences, min(eval_sequences, 100)
        self.examples = dict.fromkeys(("train", "valid", "test"), eval_sequences * self.scored)
        self.examples["train"] = iterations * batch_size * self.scored
        self.info = {"made": self.title, "baseline": self.baseline, "sha256": self._fingerprints()}

    @property
    @abstractmethod
    def title(self) -> str:
        """The task and everything that its data depend on, besides the seed."""

    @property
    @abstractmethod
    def scored(self) -> int:
        """Targets per sequence."""

    @property
    @abstractmethod
    def baseline(self) -> float:
        """The loss of the best answer that remembers nothing."""

    @abstractmethod
    def draw(self, generator: torch.Generator, count: int) -> Sequences:
        """`count` new sequences."""

    @abstractmethod
    def nats(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, mean over its targets."""

    @abstractmethod
    def output(self, model: SequenceModel, inputs: Tensor) -> Tensor:
        """What the model answers where it is asked."""

    @abstractmethod
    def sums(self, output: Tensor, targets: Tensor) -> Mapping[str, float]:
        """What `scores` needs, as sums over a batch; `targets` and `loss` among them."""

    @abstractmethod
    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The scores of a split from its sums."""

    def _fingerprints(self) -> dict[str, str]:
        """Of each split's first sequences (for training, those of seed 0): they change when the drawing does."""
        firsts = {"train": next(self.batches(0, 0))} | {s: self._part(s, 0, 1) for s in ("valid", "test")}
        return {split: _digest(self.title, first) for split, first in firsts.items()}

    def steps_per_epoch(self, seed: int = 0) -> int:
        """`iterations`."""
        return self.iterations

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Sequences]:
        """The batches of an epoch from number `start` on, each of its own generator."""
        for step in range(start, self.iterations):
            yield self.draw(stream(self.title, seed, epoch, step), self.batch_size)

    def check_parts(self, parts: int) -> None:
        """See `Task`: the sequences are divided."""
        check_share("batch_size", self.batch_size, parts)

    def part(self, batch: Sequences, number: int, parts: int) -> Sequences:
        """See `Task`."""
        return sequences_of(batch, number, parts)

    def _part(self, split: str, number: int, count: int) -> Sequences:
        return self.draw(stream(self.title, split, number), count)

    def _parts(self, split: str) -> Iterator[Sequences]:
        """A fixed set, in parts of `eval_batch_size`."""
        check_known("the split", split, self.examples)
        assert self.eval_batch_size
        for number, first in enumerate(range(0, self.eval_sequences, self.eval_batch_size)):
            yield self._part(split, number, min(self.eval_batch_size, self.eval_sequences - first))

    def loss(self, model: SequenceModel, batch: Sequences, state: object) -> tuple[Tensor, Tensor, None]:
        """Mean loss per target; every batch begins from the initial state."""
        nats = self.nats(self.output(model, batch.inputs), batch.targets)
        return nats.detach(), nats, None

    @torch.no_grad()
    def evaluate(
        self,
        model: SequenceModel,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of a fixed set ("train": one more like the others), dropouts off.

        Returns:
            The task's scores, and `manifold_error`, the worst of the model's recurrent maps, where it has such.
        """
        total: dict[str, float] = {}
        with dropouts_off(model):
            for number, drawn in enumerate(self._parts(split), 1):
                part = moved(drawn, device_of(model))
                size = batch_size or len(part.targets.movedim(-1, 0))
                pairs = zip(
                    torch.split(part.inputs, size, 1), torch.split(part.targets, size, -1), strict=True
                )
                for inputs, targets in pairs:
                    for name, value in self.sums(self.output(model, inputs), targets).items():
                        total[name] = total.get(name, 0.0) + value
                tick(min(1.0, number * (self.eval_batch_size or 1) / self.eval_sequences))
        return {**self.scores(total), **manifold_error(model)}

    def look(self, model: SequenceModel, closely: bool = False) -> list[dict[str, Json]]:
        """Also the gradient of the last answer's loss, against the time lag."""
        found = super().look(model, closely)
        if closely and hasattr(model, "layers"):
            inputs, targets, _ = moved(self._part("valid", 0, LOOKED_AT), device_of(model))
            found.append(lag_record(model, inputs, lambda h: self.last_nats(model.read_out(h), targets)))
        return found

    def last_nats(self, answer: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of what is answered at the last step, (B, outputs)."""
        return functional.cross_entropy(answer, targets[-1])

    def solved(self, scores: Mapping[str, float]) -> bool:
        """From the accuracy `good_enough` on."""
        return self.good_enough is not None and scores.get("accuracy", 0.0) >= self.good_enough


def manifold_error(model: torch.nn.Module) -> dict[str, float]:
    """How far the model's recurrent maps are from what they promise, the worst of them; {} where there is none.

    Example:
        >>> from sparsernn.nn.maps import Orthogonal
        >>> manifold_error(Orthogonal(4))["manifold_error"] < 1e-5, manifold_error(torch.nn.Linear(1, 1))
        (True, {})
    """
    errors = [m.manifold_error() for m in model.modules() if isinstance(m, RecurrentMap)]
    return {"manifold_error": max(errors)} if errors else {}


def _digest(title: str, batch: Sequences) -> str:
    seen = hashlib.sha256(title.encode())
    for tensor in (batch.inputs, batch.targets):
        seen.update(tensor.contiguous().numpy().tobytes())
    return seen.hexdigest()
