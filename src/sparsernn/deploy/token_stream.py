"""Texts being read one token at a time: the interface, and the form that any model can take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal, TypeGuard

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Size
from sparsernn.core.plain import Part
from sparsernn.nn.drive.single_step import no_repacking

LARGEST_WINDOW = 1 << 24
"""Scores that a call makes at most: 64 MB; longer windows take several."""


class Reader(ABC):
    """Whatever reads a batch of sequences.

    Attributes:
        batch: B, how many at once.
        kind: of what: "words", ids below `size`, or "vectors", of `size` numbers each.
    """

    batch: int
    kind: ClassVar[Literal["words", "vectors"]]

    @property
    @abstractmethod
    def size(self) -> int:
        """V of words, I of vectors."""

    @abstractmethod
    def examples(self, steps: int, generator: torch.Generator) -> Tensor:
        """Something to read, drawn at random: (T, B) or (T, B, I)."""

    @abstractmethod
    def read(self, inputs: Tensor) -> Tensor:
        """Reads several time steps: (T, B) or (T, B, I) -> what is said to each, (T, B, .)."""


class WordReader(Reader):
    """A reader of words.

    Attributes:
        vocabulary_size: V.
    """

    kind = "words"
    vocabulary_size: int

    @property
    def size(self) -> int:
        """V."""
        return self.vocabulary_size

    def examples(self, steps: int, generator: torch.Generator) -> Tensor:
        """Ids (T, B)."""
        return torch.randint(self.vocabulary_size, (steps, self.batch), generator=generator)


class SentenceReader(WordReader):
    """Sentences read as a whole, which have nothing to do with each other.

    Args:
        tag: ids (T, B) -> scores (T, B, K).
        vocabulary_size: V.
        batch: B.
    """

    def __init__(self, tag: Callable[[Tensor], Tensor], vocabulary_size: int, batch: int) -> None:
        self.tag, self.vocabulary_size, self.batch = tag, vocabulary_size, batch

    def read(self, inputs: Tensor) -> Tensor:
        """Ids (T, B) -> scores (T, B, K)."""
        return self.tag(inputs)


class Stream(WordReader):
    """A batch of texts being read or written, with their state.

    Attributes:
        batch: B, how many.
        vocabulary_size: V.
        state: what the model remembers, in the form its own forward pass takes; may be set.
    """

    state: Any

    @abstractmethod
    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """Reads one word of each text: ids (B,) -> scores of the next word (B, V).

        Scores are logits, or log-probabilities where a head has only those; their softmax is the probability.
        """

    def read(self, inputs: Tensor) -> Tensor:
        """Reads several: ids (T, B) -> scores (T, B, V)."""
        return torch.stack([self.step(row) for row in inputs])

    def _ids_of_window(self, words: Tensor) -> Tensor:
        """Ids (T, B), all within the vocabulary."""
        whole = isinstance(words, Tensor) and words.dtype == torch.int64 and words.shape[1:] == (self.batch,)
        if whole and len(words) and 0 <= int(words.min()) <= int(words.max()) < self.vocabulary_size:
            return words.contiguous()
        return torch.tensor([self._ids(row) for row in words], dtype=torch.int64).view(-1, self.batch)

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
                "this library's language models, sequence models and taggers, and models with forward(words, state), "
                "vocabulary_size and head."
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

    def reader(self, batch: int = 1) -> Reader:
        """The same as a stream."""
        return self.stream(batch)

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

    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One step of the model."""
        with no_repacking():
            return self._said(torch.tensor([self._ids(words)]))[0]

    def read(self, inputs: Tensor) -> Tensor:
        """Reads several in as few passes as memory allows: ids (T, B) -> scores (T, B, V)."""
        words, size = (
            self._ids_of_window(inputs),
            max(1, LARGEST_WINDOW // (self.batch * self.vocabulary_size)),
        )
        if not len(words):
            return torch.zeros(0, self.batch, self.vocabulary_size)
        return torch.cat([self._said(part) for part in torch.split(words, size)])

    @torch.no_grad()
    def _said(self, words: Tensor) -> Tensor:
        with self.runtime.evaluating():
            features = self.model(words.to(self._device), self.state)
            if not (hasattr(features, "raw") and hasattr(features, "state")):
                raise InputError(
                    f"a {type(self.model).__name__} returns a {type(features).__name__}; a runtime needs what its "
                    "forward pass returns to have raw (T, B, H) and state."
                )
            scores: Tensor = self._scores(features.raw)
        self.state = features.state
        return scores
