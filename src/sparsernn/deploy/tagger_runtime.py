"""Taggers that read whole sentences: in one call into C, or by their own forward pass."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.compiled_runtime import StepRuntime, Window
from sparsernn.deploy.token_stream import Reader, SentenceReader, evaluating
from sparsernn.models.tagger import Tagger

UNSTREAMED = "a Tagger reads whole sentences, so it has no stream of words; call tag(words, lengths)."


class TaggerRuntime(StepRuntime):
    """A tagger that reads whole sentences, each batch in one call; `runtime(tagger)` makes it.

    Example:
        >>> from sparsernn.deploy import runtime
        >>> from sparsernn.models.tagger import Tagger
        >>> ready = runtime(Tagger(100, 5, embedding_size=20, hidden_size=10), threads=1)
        >>> ready.tag(torch.zeros(7, 2, dtype=torch.long), torch.tensor([7, 3])).shape
        torch.Size([7, 2, 5])
    """

    def stream(self, batch: int = 1) -> NoReturn:
        """Refused: a tag depends on the words after it."""
        raise InputError(UNSTREAMED)

    def reader(self, batch: int = 1) -> Reader:
        """Sentences of one length after the other."""
        return SentenceReader(self.tag, self.vocabulary_size, batch)

    def tag(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores of all tags.

        Args:
            words: (T, B) int64, B from 1 to 16.
            lengths: words of each sentence, (B,) of 1 to T; missing: T.

        Returns:
            (T, B, K), before the softmax; beyond a sentence's end without a meaning.

        Raises:
            InputError: numbers that are no words', or other shapes.
        """
        ids, valid = checked_sentences(words, lengths, self.vocabulary_size)
        held = None if valid is None else valid.to(torch.int32)
        return Window(self, ids.shape[1]).call(ids, held)


class TaggerModuleRuntime:
    """A tagger run by its own forward pass, as in evaluation, in any number of sentences at once.

    Args:
        model: whether it is in training is left as it is.

    Example:
        >>> ready = TaggerModuleRuntime(Tagger(100, 5, embedding_size=20, hidden_size=10))
        >>> ready.tag(torch.zeros(7, 2, dtype=torch.long), torch.tensor([7, 3])).shape
        torch.Size([7, 2, 5])
    """

    def __init__(self, model: Tagger) -> None:
        self.model, self.vocabulary_size = model, model.embedding.vocabulary_size
        self._modules = list(model.modules())
        self._device = next(p.device for p in model.parameters())

    def describe(self) -> str:
        """One line."""
        return "the model's own forward pass"

    def stream(self, batch: int = 1) -> NoReturn:
        """Refused: a tag depends on the words after it."""
        raise InputError(UNSTREAMED)

    def reader(self, batch: int = 1) -> Reader:
        """Sentences of one length after the other."""
        return SentenceReader(self.tag, self.vocabulary_size, batch)

    @torch.no_grad()
    def tag(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores of all tags; see `TaggerRuntime.tag`."""
        ids, valid = checked_sentences(words, lengths, self.vocabulary_size)
        with evaluating(self._modules):
            scores: Tensor = self.model(ids.to(self._device), valid)
        return scores


def checked_sentences(words: object, lengths: object, vocabulary_size: int) -> tuple[Tensor, Tensor | None]:
    """Ids (T, B) and lengths (B,), both int64.

    Raises:
        InputError: they are something else, or out of range.
    """
    if not isinstance(words, Tensor) or not _is_ids(words, 2, 0, vocabulary_size):
        what = f"{words.dtype} {tuple(words.shape)}" if isinstance(words, Tensor) else repr(words)[:60]
        raise InputError(
            f"the words are {what}; a tagger reads int64 (T, B) of ids from 0 to {vocabulary_size - 1}."
        )
    if lengths is None:
        return words.contiguous(), None
    fits = isinstance(lengths, Tensor) and lengths.shape == words.shape[1:]
    if not isinstance(lengths, Tensor) or not fits or not _is_ids(lengths, 1, 1, len(words) + 1):
        raise InputError(
            f"the lengths are {str(lengths)[:60]}; they must be int64, one for each of {words.shape[1]} "
            f"sentences, from 1 to {len(words)}."
        )
    return words.contiguous(), lengths


def _is_ids(found: Tensor, axes: int, least: int, below: int) -> bool:
    whole = found.ndim == axes and found.dtype == torch.int64 and found.numel()
    return bool(whole) and least <= int(found.min()) <= int(found.max()) < below
