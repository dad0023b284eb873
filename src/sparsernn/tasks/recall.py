"""Delayed recall: say what came k steps ago, in a stream that is cut into windows shorter than that."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import Share, Size
from sparsernn.core.streams import stream
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.generated_task import Sequences, Synthetic


class Recall(Synthetic):
    """A stream of random signs; the target is the sign `delay` steps ago, and the state is carried between windows.

    With a window no longer than the delay no gradient ever connects a target with its sign: truncated
    backpropagation learns it by chance if at all, and what is learnt shows what comes across the cuts. The first
    `delay` targets of an epoch are coin flips; evaluations do not score them.

    Args:
        delay: k, at least 1.
        window: T, steps of a batch, at least 1.
        batch_size: parallel streams, at least 1.
        iterations: batches of an epoch, at least 1.
        eval_sequences: streams of the validation and of the test set, at least 1.
        eval_length: steps of each that are scored, at least 1.
        good_enough: see `Synthetic`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> task = Recall(delay=2, window=5, batch_size=3, iterations=2)
        >>> first, second = task.batches(seed=0, epoch=0)
        >>> bool(torch.equal(second.inputs[:3, :, 0] > 0, second.targets[2:] > 0.5))
        True
    """

    metric, counts = "accuracy", "signs"

    window: int

    @checked
    def __init__(
        self,
        *,
        delay: Size = 3,
        window: Size = 3,
        batch_size: Size = 64,
        iterations: Size = 500,
        eval_sequences: Size = 64,
        eval_length: Size = 100,
        good_enough: Share | None = None,
    ) -> None:
        self.delay, self.window, self.eval_length = delay, window, eval_length
        self.sizes = {"input_size": 1, "output_size": 1}
        super().__init__(
            batch_size=batch_size,
            iterations=iterations,
            eval_sequences=eval_sequences,
            good_enough=good_enough,
        )
        self.examples["train"] = iterations * batch_size * window

    @property
    def title(self) -> str:
        """The task and its settings."""
        return f"recall of {self.eval_length} signs after {self.delay} steps, windows of {self.window}"

    @property
    def scored(self) -> int:
        """Steps of an evaluation's stream."""
        return self.eval_length

    @property
    def baseline(self) -> float:
        """A coin: ln 2."""
        return math.log(2)

    def draw(self, generator: torch.Generator, count: int) -> Sequences:
        """Streams of `eval_length` scored steps; targets only for these."""
        signs = _signs(self.eval_length + self.delay, count, generator)
        return Sequences(signs.unsqueeze(-1), (signs[: self.eval_length] > 0).float())

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Sequences]:
        """The windows of an epoch's stream from number `start` on: a pure function of its arguments."""
        steps = self.iterations * self.window
        signs = _signs(steps + self.delay, self.batch_size, stream(self.title, seed, epoch))
        inputs, targets = signs[self.delay :].unsqueeze(-1), (signs[:steps] > 0).float()
        for first in range(start * self.window, steps, self.window):
            yield Sequences(inputs[first : first + self.window], targets[first : first + self.window])

    def loss(self, model: SequenceModel, batch: Sequences, state: object) -> tuple[Tensor, Tensor, None]:
        """Mean nats per sign, and the state to go on from."""
        features = model(batch.inputs, state)
        nats = self.nats(model.read_out(features.raw).squeeze(-1), batch.targets)
        return nats.detach(), nats, features.state

    def output(self, model: SequenceModel, inputs: Tensor) -> Tensor:
        """Log odds of +1 from the first answer on that can be known."""
        answers: Tensor = model.read_out(model(inputs).raw[self.delay :])
        return answers.squeeze(-1)

    def nats(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return functional.binary_cross_entropy_with_logits(output, targets)

    def last_nats(self, answer: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the last step's answers, (B, 1)."""
        return self.nats(answer.squeeze(-1), targets[-1])

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, float]:
        """Nats and right answers."""
        return {
            "loss": self.nats(output, targets).item() * targets.numel(),
            "right": float(((output > 0) == (targets > 0.5)).sum()),
            "targets": targets.numel(),
        }

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss` in nats per sign, `accuracy`, and `baseline`, the loss of a coin."""
        n = sums["targets"]
        return {"loss": sums["loss"] / n, "accuracy": sums["right"] / n, "baseline": self.baseline}


def _signs(steps: int, count: int, generator: torch.Generator) -> Tensor:
    """(steps, count) of +1 and -1."""
    return torch.randint(2, (steps, count), generator=generator) * 2.0 - 1.0
