"""Texts being read one token at a time: the interface, and the form that any model can take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Size
from sparsernn.core.plain import Part
from sparsernn.nn.drive.single_step import no_repacking


class Stream(ABC):
    """A batch of texts being read or written, with their state.

    Attributes:
        batch: B, how many.
        vocabulary_size: V.
        state: what the model remembers, in the form its own forward pass takes; may be set.
    """

    batch: int
    vocabulary_size: int
    state: Any

    @abstractmethod
    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """Reads one word of each text: ids (B,) -> scores of the next word (B, V).

        Scores are logits, or log-probabilities where a head has only those; their softmax is the probability.
        """

    def read(self, words: Tensor) -> Tensor:
        """Reads several: ids (T, B) -> scores (T, B, V)."""
        return torch.stack([self.step(row) for row in words])

    def _ids(self, words: Sequence[int] | Tensor) -> list[int]:
        found: object = words.tolist() if isinstance(words, Tensor) else words
        given: list[object] = [found]
        if isinstance(found, Sequence) and not isinstance(found, str | bytes):
            given = list(found)
        ids = [i for i in given if _is_whole(i) and 0 <= i < self.vocabulary_size]
        if not len(ids) == len(given) == self.batch:
            limits = f"{self.batch} ids from 0 to {self.vocabulary_size - 1}"
            raise InputError(f"the words are {str(words)[:60]}; this stream takes {limits}.")
        return ids


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules in evaluation mode, each as it was afterwards."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class ModuleRuntime:
    """A language model run by its own forward pass, as in evaluation.

    Args:
        model: forward(words (T, B), state) -> something with `raw` (T, B, H) and `state`; it has `vocabulary_size`,
            and its `head` has `logits` or `log_prob`. `LanguageModel` is one. Whether it is in training is left as
            it is.

    Raises:
        InputError: the model lacks one of these, so that nobody can know how a token is read.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> ModuleRuntime(LanguageModel(10, 4, [6], "gru")).stream(2).step([3, 5]).shape
        torch.Size([2, 10])
    """

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, "head", None)
        can = hasattr(model, "vocabulary_size"), hasattr(head, "logits") or hasattr(head, "log_prob")
        if not all(can):
            missing = "head with logits or log_prob" if can[0] else "vocabulary_size"
            raise InputError(
                f"a {type(model).__name__} has no {missing}, so it cannot be read token by token; a runtime takes "
                "this library's language models, and models with forward(words, state), vocabulary_size and head."
            )
        self.model = model
        self._modules = list(model.modules())

    def describe(self) -> str:
        """One line."""
        return "the model's own forward pass"

    @checked
    def stream(self, batch: Size = 1) -> Stream:
        """New texts, from the model's initial state; `batch` at least 1."""
        return ModuleStream(self, batch)

    def evaluating(self) -> AbstractContextManager[None]:
        """The model in evaluation mode."""
        return evaluating(self._modules)


class ModuleStream(Stream):
    """Texts read by a model's own forward pass."""

    def __init__(self, runtime: ModuleRuntime, batch: int) -> None:
        model: Part = runtime.model
        self.runtime, self.model, self.batch, self.state = runtime, model, batch, None
        self.vocabulary_size = model.vocabulary_size
        self._scores = model.head.logits if hasattr(model.head, "logits") else model.head.log_prob
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One step of the model."""
        words = torch.tensor([self._ids(words)], device=self._device)
        with no_repacking(), self.runtime.evaluating():
            features = self.model(words, self.state)
            if not (hasattr(features, "raw") and hasattr(features, "state")):
                raise InputError(
                    f"a {type(self.model).__name__} returns a {type(features).__name__}; a runtime needs what its "
                    "forward pass returns to have raw (T, B, H) and state."
                )
            scores: Tensor = self._scores(features.raw[0])
        self.state = features.state
        return scores
