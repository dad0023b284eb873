"""Dynamic evaluation: the model goes on learning from what it has just been scored on, and forgets it afterwards."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sparsernn.contracts import Model, Task
from sparsernn.core.checks import checked
from sparsernn.core.devices import moved
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative, Positive, Size
from sparsernn.core.states import detached
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.windows import streams, window_bounds, window_of
from sparsernn.models.language_model import LanguageModel
from sparsernn.tasks.language import scores
from sparsernn.tasks.segments import dropouts_off, text_of

Tick = Callable[[float], None]


@checked
@dataclass(frozen=True)
class DynamicEvaluation:
    """Evaluation with gradient steps on the way, of any language model, whose weights are the same bits afterwards.

    First the model reads the training split, unchanged, and collects S = sum over batches of g^2 for every weight, g
    the gradient of a batch's mean loss. With MS = sqrt(S) and theta_0 the trained weights:

        G = sum over parameter tensors of mean(MS);   R = MS / G, at most 1 / lamb
        after each segment, once its loss has been counted:
        theta <- theta + lamb * R * (theta_0 - theta) - lr * g / (MS + epsilon)

    Conventions: `statistics` "sum" is the formula above, "mean" takes MS = sqrt(S / batches) (`--ms` of the published
    script). `normaliser` "sum" is G above, "mean" divides it by the number of tensors. Good values of lamb, lr and
    epsilon depend on both. Under masks a weight that does not exist stays 0: MS, R and its step are 0 there, and the
    mean of a tensor's MS is over the weights that exist.

    Args:
        lamb: pull back to the trained weights, at least 0.
        lr: learning rate, at least 0. With lr and lamb 0 the result is the static one.
        epsilon: keeps steps of weights with tiny MS small, above 0.
        segment: tokens between two updates, at least 1.
        statistics_batch: parallel streams while statistics are collected, at least 1.
        max_batches: stop the statistics after so many, at least 1; None: the whole training split.
        statistics: "sum" or "mean".
        normaliser: "sum" or "mean".

    Raises:
        InputError: a setting out of range.

    Example:
        >>> from sparsernn.data.text_styles import Style
        >>> from sparsernn.data.text_corpus import build_corpus
        >>> from sparsernn.tasks import LanguageModelling
        >>> texts = dict.fromkeys(("train", "valid", "test"), "one two three two " * 40)
        >>> task = LanguageModelling(build_corpus(texts, Style("whitespace"), {"level": "word"}))
        >>> model = LanguageModel(len(task.corpus.vocabulary), 4, [4])
        >>> mode = DynamicEvaluation(statistics_batch=10, max_batches=2)
        >>> sorted(mode.evaluate(task, model, "valid"))
        ['bits', 'loss', 'perplexity', 'tokens']

    Source: B. Krause, E. Kahembwe, I. Murray, S. Renals, "Dynamic Evaluation of Neural Sequence Models", 2018,
    arXiv:1709.07432.
    Differs from the original (the script of the mixture-of-softmaxes authors): the model is in evaluation mode all
    the time, so weight drop, which that script leaves on, is off too; the loss is divided by the scored tokens.
    """

    lamb: NonNegative = 0.02
    lr: NonNegative = 0.002
    epsilon: Positive = 0.001
    segment: Size = 5
    statistics_batch: Size = 100
    max_batches: Size | None = None
    statistics: Literal["sum", "mean"] = "sum"
    normaliser: Literal["sum", "mean"] = "sum"

    def evaluate(
        self,
        task: Task,
        model: Model,
        split: str,
        *,
        batch_size: int | None = None,
        masks: Mapping[str, Tensor] | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of a split under dynamic evaluation, as `LanguageModelling.evaluate` returns them.

        Args:
            task: language modelling.
            model: a `LanguageModel`; weights, gradients and mode are left as they came.
            split: "train", "valid" or "test".
            batch_size: streams, which share the moving weights; 1 when missing.
            masks: parameter name -> bool, True where a weight exists; the others are never touched.
            tick: told the fraction done, statistics included.

        Raises:
            InputError: not a language model, training text too short for `statistics_batch`, or a loss that is no
                longer finite.
        """
        rows = text_of(task, model, split, batch_size or 1, "dynamic evaluation")
        train: Tensor = moved(self._train_rows(task.corpus), rows.device)
        learnt, scored = self._segments(train, self.max_batches), self._segments(rows)
        share = len(learnt) / (len(learnt) + len(scored))
        reader, parameters = cast(LanguageModel, model), _parameters(model)
        present = [(masks or {}).get(name) for name in parameters]
        with dropouts_off(model), _unchanged(list(parameters.values())) as trained:
            rms = self._rms(reader, train, learnt, lambda done: tick(share * done))
            rates = self.rates(rms, present)
            nats = self._follow(
                reader, rows, scored, trained, rates, lambda done: tick(share + (1 - share) * done)
            )
        return scores(nats, (len(rows) - 1) * rows.shape[1])

    def rates(
        self, rms: Sequence[Tensor], present: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """lamb * R and lr / (MS + epsilon) for every weight.

        Args:
            rms: MS of each parameter tensor.
            present: True where a weight exists; None: everywhere.

        Example:
            >>> mode = DynamicEvaluation(lamb=0.5, lr=0.1, epsilon=1.0)
            >>> mode.rates([torch.tensor([1.0, 3.0])], [None])   # G = 2
            ([tensor([0.2500, 0.7500])], [tensor([0.0500, 0.0250])])
        """
        exists = [
            torch.ones_like(ms) if here is None else here.to(ms)
            for ms, here in zip(rms, present, strict=True)
        ]
        rms = [ms * here for ms, here in zip(rms, exists, strict=True)]
        means = [
            (ms.double().sum() / here.sum().clamp(min=1)).item() for ms, here in zip(rms, exists, strict=True)
        ]
        scale = sum(means) / (len(means) if self.normaliser == "mean" else 1)
        decay = [(self.lamb / (scale or 1.0) * ms).clamp_(max=1.0) for ms in rms]
        return decay, [self.lr / (ms + self.epsilon) * here for ms, here in zip(rms, exists, strict=True)]

    def _train_rows(self, corpus: Corpus | None) -> Tensor:
        assert corpus is not None  # text_of has seen to it
        ids = corpus.splits["train"]
        if len(ids) < 2 * self.statistics_batch:
            raise InputError(
                f"statistics_batch is {self.statistics_batch}, but the train split has {len(ids):,} tokens; "
                f"it must be at most {len(ids) // 2}."
            )
        return streams(ids, self.statistics_batch, "train")

    def _segments(self, rows: Tensor, most: int | None = None) -> list[tuple[int, int]]:
        return window_bounds(len(rows), self.segment)[:most]

    def _rms(
        self, model: LanguageModel, rows: Tensor, segments: list[tuple[int, int]], tick: Tick
    ) -> list[Tensor]:
        """MS of every parameter tensor; the model stays as it is."""
        squares = [torch.zeros_like(p) for p in _parameters(model).values()]
        for number, (_, gradients) in enumerate(_gradients(model, rows, segments), 1):
            torch._foreach_addcmul_(squares, gradients, gradients)
            tick(number / len(segments))
        batches = len(segments) if self.statistics == "mean" else 1
        return [square.div_(batches).sqrt_() for square in squares]

    def _follow(
        self,
        model: LanguageModel,
        rows: Tensor,
        segments: list[tuple[int, int]],
        trained: list[Tensor],
        rates: tuple[list[Tensor], list[Tensor]],
        tick: Tick,
    ) -> float:
        """Summed nats of the rows, each segment counted before the model learns from it."""
        weights, (decay, step), total = [p.data for p in _parameters(model).values()], rates, 0.0
        for number, (nats, gradients) in enumerate(_gradients(model, rows, segments), 1):
            total += nats
            if not math.isfinite(total):
                raise InputError(
                    f"the loss is {nats} in segment {number} under lr {self.lr} and lamb {self.lamb}, so dynamic "
                    "evaluation cannot go on; take a smaller lr or a larger epsilon."
                )
            torch._foreach_lerp_(weights, trained, decay)
            torch._foreach_addcmul_(weights, step, gradients, -1.0)
            tick(number / len(segments))
        return total


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What learns, by name; tied tensors once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _gradients(
    model: LanguageModel, rows: Tensor, segments: Sequence[tuple[int, int]]
) -> Iterator[tuple[float, list[Tensor]]]:
    """For each segment: its nats, and the gradient of their mean; the state goes on, the gradient is cut.

    The model may be changed between two segments. `.grad` is not touched.
    """
    parameters, state = list(_parameters(model).values()), model.initial_state(rows.shape[1])
    for first, length in segments:
        words, targets = window_of(rows, first, length)
        with torch.enable_grad():
            features = model(words, state)
            nats = model.head.nll(features.dropped, targets)
            gradients = torch.autograd.grad(
                nats.mean(), parameters, allow_unused=True, materialize_grads=True
            )
        state = detached(features.state)
        yield nats.detach().double().sum().item(), list(gradients)


@contextmanager
def _unchanged(parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Gives copies of the parameters, and puts them back at the end whatever happened."""
    kept = [p.detach().clone() for p in parameters]
    try:
        yield kept
    finally:
        for p, value in zip(parameters, kept, strict=True):
            p.data.copy_(value)
