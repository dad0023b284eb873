"""Recall after a delay: the copying task, and the denoising task, where the symbols lie scattered."""

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Share, Size
from sparsernn.core.plain import Json
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.generated_task import Sequences, Synthetic


class Recall(Synthetic):
    """Symbols, blanks, a marker; after the marker the symbols are asked for in their order.

    Digits: 0 is blank, 1 to `alphabet` are symbols, `alphabet` + 1 is the marker. A step's target is its symbol
    while the answer is due and blank before; the loss is the mean over all steps, the accuracy over the answer.
    """

    metric, counts = "accuracy", "steps"

    @checked
    def __init__(self, delay: Size, length: Size, alphabet: Size, one_hot: bool, **settings: Json) -> None:
        self.delay, self.length, self.alphabet, self.one_hot = delay, length, alphabet, one_hot
        self.sizes = {"input_size": alphabet + 2 if one_hot else 1, "output_size": alphabet + 1}
        super().__init__(**settings)

    @property
    def scored(self) -> int:
        """Steps of a sequence with the longest delay."""
        return self.delay + 2 * self.length

    @property
    def baseline(self) -> float:
        """Nats per step of a network that knows when to answer and guesses what, at the longest delay."""
        return self.length * math.log(self.alphabet) / self.scored

    @abstractmethod
    def digits(self, generator: torch.Generator, symbols: Tensor) -> Tensor:
        """What is shown, (T, B) int64, up to and without the marker; `symbols` are (length, B)."""

    def draw(self, generator: torch.Generator, count: int) -> Sequences:
        """`count` new sequences of one length."""
        symbols = torch.randint(1, self.alphabet + 1, (self.length, count), generator=generator)
        shown = self.digits(generator, symbols)
        marker = torch.full((1, count), self.alphabet + 1)
        blanks = torch.zeros_like(symbols)
        digits = torch.cat((shown, marker, blanks))
        targets = torch.cat((torch.zeros_like(digits[self.length :]), symbols))
        return Sequences(self._encoded(digits), targets)

    def _encoded(self, digits: Tensor) -> Tensor:
        if self.one_hot:
            return functional.one_hot(digits, self.alphabet + 2).float()
        return digits.float().unsqueeze(-1)

    def output(self, model: SequenceModel, inputs: Tensor) -> Tensor:
        """Logits of every step, (T, B, alphabet + 1)."""
        logits: Tensor = model.read_out(model(inputs).raw)
        return logits

    def nats(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, mean over all steps."""
        return functional.cross_entropy(output.flatten(0, 1), targets.flatten())

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, float]:
        """Nats and right answers."""
        right = output[-self.length :].argmax(-1) == targets[-self.length :]
        return {
            "loss": self.nats(output, targets).item() * targets.numel(),
            "targets": targets.numel(),
            "right": right.sum().item(),
            "asked": right.numel(),
            "baseline": right.numel() * math.log(self.alphabet),
        }

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss` and `baseline` in nats per step, `accuracy` of the symbols asked for."""
        steps = sums["targets"]
        return {
            "loss": sums["loss"] / steps,
            "accuracy": sums["right"] / sums["asked"],
            "baseline": sums["baseline"] / steps,
        }


class Copying(Recall):
    """Remember `length` symbols over `delay` steps, then repeat them.

        shown:   s_1 ... s_c | delay - 1 blanks | marker | c blanks
        wanted:  delay + c blanks               | s_1 ... s_c

    Args:
        delay: T, at least 1; from the last symbol to the first answer.
        length: c, symbols to remember.
        alphabet: different symbols.
        variable: draw the delay of each batch from 1 to T - 1.
        one_hot: a digit is a vector of alphabet + 2 numbers; false: a single number, the digit itself.
        batch_size, iterations, eval_sequences, good_enough: see `Synthetic`.

    Raises:
        InputError: a number out of range, or a variable delay with T below 2.

    Example:
        >>> task = Copying(delay=3, length=2, one_hot=False, batch_size=1)
        >>> inputs, targets, _ = next(task.batches(seed=0, epoch=0))
        >>> inputs.flatten().int().tolist(), targets.flatten().tolist()
        ([3, 6, 0, 0, 9, 0, 0], [0, 0, 0, 0, 0, 3, 6])
        >>> round(Copying().baseline, 4)
        0.0945

    Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997; the form of M. Arjovsky, A. Shah and
    Y. Bengio, "Unitary Evolution Recurrent Neural Networks", 2016, arXiv:1511.06464; positions as in G. Kerg et al.,
    "Non-normal Recurrent Neural Network (nnRNN)", 2019, arXiv:1905.12080.
    Differs from the original: `alphabet` is honoured; with a variable delay accuracy is that of the answer.
    """

    @checked
    def __init__(
        self,
        *,
        delay: Size = 200,
        length: Size = 10,
        alphabet: Size = 8,
        variable: bool = False,
        one_hot: bool = True,
        batch_size: Size = 10,
        iterations: Size = 100,
        eval_sequences: Size = 1000,
        good_enough: Share | None = None,
    ) -> None:
        self.variable = variable
        if variable and delay == 1:
            raise InputError(
                "delay is 1; a variable one is drawn from 1 to delay - 1, so it must be at least 2."
            )
        super().__init__(
            delay,
            length,
            alphabet,
            one_hot,
            batch_size=batch_size,
            iterations=iterations,
            eval_sequences=eval_sequences,
            good_enough=good_enough,
        )

    @property
    def title(self) -> str:
        """The task and its settings."""
        kind = "up to " if self.variable else ""
        return f"copying {self.length} of {self.alphabet} symbols after {kind}{self.delay} steps"

    def digits(self, generator: torch.Generator, symbols: Tensor) -> Tensor:
        """The symbols, then blanks."""
        delay = self.delay
        if self.variable:
            delay = int(torch.randint(1, delay, (), generator=generator))
        return torch.cat((symbols, symbols.new_zeros(delay - 1, symbols.shape[1])))


class Denoising(Recall):
    """Remember `length` symbols that lie anywhere among blanks, then say them in their order.

        shown:   c symbols among delay - 1 blanks | marker | c blanks
        wanted:  delay + c blanks                          | s_1 ... s_c

    Args:
        delay: T, at least 1.
        length: c, symbols to remember.
        alphabet: different symbols; the marker is one more, 10 in the published code.
        one_hot: as in `Copying`.
        batch_size, iterations, eval_sequences, good_enough: see `Synthetic`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> task = Denoising(delay=4, length=2, one_hot=False, batch_size=1)
        >>> inputs, targets, _ = next(task.batches(seed=3, epoch=0))
        >>> inputs.flatten().int().tolist(), targets.flatten().tolist()
        ([9, 0, 1, 0, 0, 10, 0, 0], [0, 0, 0, 0, 0, 0, 9, 1])

    Source: L. Jing et al., "Gated Orthogonal Recurrent Units: On Learning to Forget", 2017, arXiv:1706.02761; in the
    first code of G. Kerg et al., 2019, arXiv:1905.12080.
    """

    @checked
    def __init__(
        self,
        *,
        delay: Size = 200,
        length: Size = 10,
        alphabet: Size = 9,
        one_hot: bool = True,
        batch_size: Size = 10,
        iterations: Size = 100,
        eval_sequences: Size = 1000,
        good_enough: Share | None = None,
    ) -> None:
        super().__init__(
            delay,
            length,
            alphabet,
            one_hot,
            batch_size=batch_size,
            iterations=iterations,
            eval_sequences=eval_sequences,
            good_enough=good_enough,
        )

    @property
    def title(self) -> str:
        """The task and its settings."""
        return f"denoising {self.length} of {self.alphabet} symbols within {self.delay} steps"

    def digits(self, generator: torch.Generator, symbols: Tensor) -> Tensor:
        """Blanks with the symbols among them, at places of their own in each sequence."""
        span = self.delay + self.length - 1
        order = torch.rand(span, symbols.shape[1], generator=generator).argsort(0)
        places = order[: self.length].sort(0).values
        return symbols.new_zeros(span, symbols.shape[1]).scatter_(0, places, symbols)
