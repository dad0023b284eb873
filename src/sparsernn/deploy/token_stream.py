"""Texts being read one token at a time: the interface, and the form that any model can take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
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
        ids = words.tolist() if isinstance(words, Tensor) else list(words)
        if len(ids) != self.batch or min(ids) < 0 or max(ids) >= self.vocabulary_size:
            limits = f"{self.batch} ids from 0 to {self.vocabulary_size - 1}"
            raise InputError(f"the words are {ids}; this stream takes {limits}.")
        return ids


class ModuleRuntime:
    """A model run by its own forward pass, in evaluation mode.

    Args:
        model: forward(words (T, B), state) -> something with `raw` (T, B, H) and `state`; its `head` has
            `logits` or `log_prob`. `LanguageModel` is one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def describe(self) -> str:
        """One line."""
        return "the model's own forward pass"

    def stream(self, batch: int = 1) -> Stream:
        """New texts, from the model's initial state."""
        return ModuleStream(self.model, batch)


class ModuleStream(Stream):
    """Texts read by a model's own forward pass."""

    def __init__(self, model: Any, batch: int) -> None:
        self.model, self.batch, self.state = model, batch, None
        self.vocabulary_size = model.vocabulary_size
        self._scores = model.head.logits if hasattr(model.head, "logits") else model.head.log_prob

    @torch.no_grad()
    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One step of the model."""
        words = torch.tensor([self._ids(words)])
        with no_repacking():
            features = self.model(words, self.state)
        self.state = features.state
        scores: Tensor = self._scores(features.raw[0])
        return scores
