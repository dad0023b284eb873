"""The adding problem: the sum of a few marked numbers in a long sequence."""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast, Size
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.generated_task import Sequences, Synthetic


class Adding(Synthetic):
    """Numbers from U(0, 1) in one input, marks in the other; the answer, at the last step, is the sum of the marked.

    Half of the marks (rounded down) lie in the first half of the sequence, the others in the second.

    Args:
        length: L, steps of a sequence, at least 2.
        marks: marked numbers k, at least 2, no more than fit into the halves.
        batch_size, iterations, eval_sequences: see `Synthetic`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> task = Adding(length=8, batch_size=3)
        >>> inputs, targets, _ = next(task.batches(seed=0, epoch=0))
        >>> inputs.shape, bool(torch.equal(inputs.prod(-1).sum(0), targets)), round(task.baseline, 4)
        (torch.Size([8, 3, 2]), True, 0.1667)

    Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997; this form from the code of G. Kerg et
    al., 2019, arXiv:1905.12080.
    """

    metric, counts = "mse", "sequences"

    @checked
    def __init__(
        self,
        *,
        length: Annotated[int, AtLeast(2)] = 20,
        marks: Annotated[int, AtLeast(2)] = 2,
        batch_size: Size = 1,
        iterations: Size = 100,
        eval_sequences: Size = 1000,
    ) -> None:
        if marks // 2 > length // 2 or marks - marks // 2 > length - length // 2:
            raise InputError(f"marks is {marks}; the halves of {length} steps hold {length} at most.")
        self.length, self.marks = length, marks
        self.sizes = {"input_size": 2, "output_size": 1}
        super().__init__(batch_size=batch_size, iterations=iterations, eval_sequences=eval_sequences)

    @property
    def title(self) -> str:
        """The task and its settings."""
        return f"adding {self.marks} of {self.length} numbers"

    @property
    def scored(self) -> int:
        """One sum."""
        return 1

    @property
    def baseline(self) -> float:
        """The squared error of the answer k / 2: the variance of k numbers, k / 12."""
        return self.marks / 12

    def draw(self, generator: torch.Generator, count: int) -> Sequences:
        """`count` new sequences."""
        values = torch.rand(self.length, count, generator=generator)
        middle, few = self.length // 2, self.marks // 2
        first = _marked(middle, few, count, generator)
        second = _marked(self.length - middle, self.marks - few, count, generator)
        marks = torch.cat((first, second))
        return Sequences(torch.stack((values, marks), -1), (values * marks).sum(0))

    def output(self, model: SequenceModel, inputs: Tensor) -> Tensor:
        """The answer at the last step, (B,)."""
        answer: Tensor = model.read_out(model(inputs).raw[-1])
        return answer.squeeze(-1)

    def nats(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error."""
        return functional.mse_loss(output, targets)

    def last_nats(self, answer: Tensor, targets: Tensor) -> Tensor:
        """That squared error: the last step's is the only answer."""
        return self.nats(answer.squeeze(-1), targets)

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, float]:
        """Squared errors."""
        return {"loss": (output - targets).double().square().sum().item(), "targets": len(targets)}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss` and `mse` are the mean squared error; `baseline` is that of a constant answer."""
        error = sums["loss"] / sums["targets"]
        return {"loss": error, "mse": error, "baseline": self.baseline}


def _marked(steps: int, marks: int, count: int, generator: torch.Generator) -> Tensor:
    """Ones at `marks` places of each column of (steps, count) zeros."""
    order = torch.rand(steps, count, generator=generator).argsort(0)
    return torch.zeros(steps, count).scatter_(0, order[:marks], 1.0)
