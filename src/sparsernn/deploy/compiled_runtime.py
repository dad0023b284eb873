"""Language models and taggers whose tokens, or windows of them, are one call into C, or the same in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.autotune import fastest
from sparsernn.deploy.step_list import CCall, CompiledList, Place, Step, StepList
from sparsernn.deploy.step_twins import TWINS
from sparsernn.deploy.token_stream import Stream
from sparsernn.kernels.library import check_threads, library
from sparsernn.kernels.weight_formats import FORMATS, Csr, Dense, DenseInt8, Format, padded

LOOKED_UP = (Dense, DenseInt8, Csr)
"""Formats in which one row can be read by itself (CsrInt8 is a Csr)."""
LARGEST_WINDOW = 1 << 24
"""Scores that a call makes at most: 64 MB; longer windows take several."""


class CompiledRuntime:
    """A model written as steps, and its weights in the formats that they are fastest in.

    Args:
        steps: what a token, or a window, goes through.
        held: parameter name -> its `Format`; "embedding.weight" is looked up.
        threads: of a call; None times one thread against torch's number and keeps the faster.
        batch: columns that the number of threads is chosen for.

    Attributes:
        vocabulary_size: V.
        outputs: features of each answer.
        library: the compiled kernels, or None where the twins compute.
    """

    def __init__(
        self, steps: StepList, outputs: Place, held: Mapping[str, Format], threads: int | None, batch: int
    ) -> None:
        check_threads(threads)
        self.steps, self.outputs, self.held = steps, outputs, dict(held)
        self.vocabulary_size = held["embedding.weight"].shape[0]
        self.library = library()
        self.compiled = CompiledList(steps)
        self.threads = 1 if self.library is None else self._threads(threads, batch)

    def _threads(self, wanted: int | None, batch: int) -> int:
        assert self.library is not None
        most = self.library.threads(wanted)
        if wanted is not None or most == 1:
            return most
        return int(fastest({str(n): self._timed(n, batch) for n in (1, most)}))

    def _timed(self, threads: int, batch: int) -> Callable[[], object]:
        window = Window(self, batch, threads)
        ids = [0] * batch
        return lambda: window.token(ids)

    @property
    def bytes(self) -> int:
        """Memory that weights and biases take."""
        matrices = {id(f): f.bytes for f in self.held.values()}
        return sum(matrices.values()) + 4 * sum(v.numel() for v in self.steps.vectors())

    def formats(self) -> dict[str, str]:
        """Name of each weight -> name of its format; the embedding is left out."""
        kinds = {cls: name for name, cls in FORMATS.items()}
        return {name: kinds[type(f)] for name, f in self.held.items() if name != "embedding.weight"}

    def describe(self) -> str:
        """One line: the format of each weight, and the threads."""
        way = "compiled" if self.library else "torch"
        return f"{way}, {self.threads} thread(s): " + ", ".join(f"{n} {k}" for n, k in self.formats().items())

    def stream(self, batch: int = 1) -> Stream:
        """New texts, from the model's initial state; `batch` from 1 to 16."""
        return CompiledStream(self, batch)


class Window:
    """The two stores of a model, and a call that reads so many time steps of so many columns.

    Attributes:
        fixed: (rows, width), with the states.
    """

    def __init__(self, runtime: CompiledRuntime, batch: int, threads: int | None = None) -> None:
        self.runtime, self.batch, self.width = runtime, batch, padded(batch)
        self.threads = runtime.threads if threads is None else threads
        self.fixed = torch.zeros(runtime.steps.fixed, self.width)
        self._scratch = torch.zeros(self.threads * runtime.compiled.scratch, dtype=torch.int16)
        self._list = ctypes.addressof(runtime.compiled.structure)
        self._token = torch.zeros(1, runtime.steps.moving, self.width)  # the moving store of a single token
        self._ids: Any = (ctypes.c_int64 * batch)()
        self._one = self._call(self._token, ctypes.addressof(self._ids), None)
        self._answer = self._answers(self._token)[0]
        self.begin()

    def _call(self, moving: Tensor, words: int, lengths: int | None) -> CCall:
        here = (self.fixed.data_ptr(), moving.data_ptr(), self._scratch.data_ptr(), words, lengths)
        return CCall(*here, len(moving), self.batch, self.width, self.threads)

    def _answers(self, moving: Tensor) -> Tensor:
        first = self.runtime.outputs
        return moving[:, first.row : first.row + first.rows]

    def begin(self) -> None:
        """The states before the first token."""
        for state in self.runtime.steps.states:
            for place in state:
                self.at(place).zero_()
        for place, values in self.runtime.steps.constants:
            self.at(place).copy_(values.unsqueeze(1))

    def at(self, place: Place) -> Tensor:
        """Rows of the fixed store."""
        return self.fixed[place.row : place.row + place.rows]

    def token(self, ids: list[int]) -> Tensor:
        """One time step, B ids within the vocabulary -> answers (rows, width), to be copied."""
        if self.runtime.library is None:
            self._twin(self._token, torch.tensor([ids]), None)
        else:
            self._ids[:] = ids
            self.runtime.library.steps(self._list, ctypes.addressof(self._one))
        return self._answer

    def call(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """words (T, B) int64 within the vocabulary, lengths (B,) int32 -> answers (T, rows, width)."""
        moving = torch.zeros(len(words), self.runtime.steps.moving, self.width)
        if self.runtime.library is None:
            self._twin(moving, words, lengths)
        else:
            here = self._call(moving, words.data_ptr(), None if lengths is None else lengths.data_ptr())
            self.runtime.library.steps(self._list, ctypes.addressof(here))
        return self._answers(moving)

    @torch.no_grad()
    def _twin(self, moving: Tensor, words: Tensor, lengths: Tensor | None) -> None:
        """The same in torch; see steps.c."""
        for steps, backwards in self.runtime.steps.passes:
            for t in reversed(range(len(words))) if backwards else range(len(words)):
                for step in steps:
                    y, a, b, c = (
                        self._operand(place, moving[t]) for place in (step.y, step.a, step.b, step.c)
                    )
                    if step.kind == "lookup":
                        assert step.first is not None
                        y[:, : self.batch] = _rows(step.first, words[t]).t()
                    elif step.kind == "keep":
                        if lengths is not None:
                            y[:, : self.batch][:, t >= lengths] = 0
                    else:
                        self._do(step, y, a, b, c)

    def _do(self, step: Step, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        TWINS[step.kind](y, a, b, c, step)

    def _operand(self, place: Place, moving: Tensor) -> Tensor:
        store = moving if place.moving else self.fixed
        return store[place.row : place.row + place.rows]


def _rows(table: Format, words: Tensor) -> Tensor:
    """Word vectors (B, E)."""
    if isinstance(table, Csr):
        return torch.stack([table.twin()[word].to_dense() for word in words])
    return table.twin()[words]


class CompiledStream(Stream):
    """Texts read by a language model written as steps; `state` is a tuple of one tuple of (B, .) for each layer."""

    def __init__(self, runtime: CompiledRuntime, batch: int) -> None:
        self.runtime, self.batch = runtime, batch
        self.vocabulary_size = runtime.vocabulary_size
        self._window = Window(runtime, batch)

    @property
    def state(self) -> tuple[tuple[Tensor, ...], ...]:
        """A copy of what the model remembers."""
        return tuple(
            tuple(
                self._window.at(place)[:, : self.batch].t().clone(memory_format=torch.contiguous_format)
                for place in layer
            )
            for layer in self.runtime.steps.states
        )

    @state.setter
    def state(self, state: Any) -> None:
        """Takes up another reading: a `state` of this or of the model's own forward pass.

        Raises:
            InputError: it is of other layers or another batch, or not finite.
        """
        places = [place for layer in self.runtime.steps.states for place in layer]
        for place, tensor in zip(places, self._checked(state), strict=True):
            self._window.at(place)[:, : self.batch] = tensor.t()

    def _checked(self, state: Any) -> list[Tensor]:
        wanted = [[(self.batch, place.rows) for place in layer] for layer in self.runtime.steps.states]
        try:
            found = [list(layer) for layer in state]
            tensors = [t for layer in found for t in layer]
            fits = [[tuple(t.shape) for t in layer] for layer in found] == wanted and all(
                map(_is_number, tensors)
            )
        except (TypeError, AttributeError):
            fits = False
        if not fits:
            shapes = ", ".join(_told(layer) for layer in wanted)
            raise InputError(f"the state does not fit: it must be finite tensors, {shapes}.")
        return tensors

    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One token."""
        made = self._window.token(self._ids(words))
        if self._window.width == 1:  # torch takes 60 microseconds to copy a column of 10,000, and 2 for a row
            return made.view(1, -1).clone()
        return made[:, : self.batch].t().clone(memory_format=torch.contiguous_format)

    def read(self, words: Tensor) -> Tensor:
        """Reads several in as few calls as memory allows: ids (T, B) -> scores (T, B, V)."""
        ids = torch.tensor([self._ids(row) for row in words], dtype=torch.int64).view(-1, self.batch)
        size = max(1, LARGEST_WINDOW // (self._window.width * self.runtime.steps.moving))
        if not len(ids):
            return torch.zeros(0, self.batch, self.vocabulary_size)
        return torch.cat([self._scores(part) for part in torch.split(ids, size)])

    def _scores(self, words: Tensor) -> Tensor:
        return self._window.call(words)[..., : self.batch].transpose(1, 2).contiguous()


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isfinite(tensor).all())


def _told(shapes: list[tuple[int, int]]) -> str:
    if len(shapes) == 2 and shapes[0] == shapes[1]:
        return f"two of {shapes[0]}"
    return " and ".join(f"one of {shape}" for shape in shapes)


class TaggerRuntime(CompiledRuntime):
    """A tagger that reads whole sentences, each batch in one call; `runtime(tagger)` makes it.

    Example:
        >>> from sparsernn.deploy import runtime
        >>> from sparsernn.models.tagger import Tagger
        >>> ready = runtime(Tagger(100, 5, embedding_size=20, hidden_size=10), threads=1)
        >>> ready.tag(torch.zeros(7, 2, dtype=torch.long), torch.tensor([7, 3])).shape
        torch.Size([7, 2, 5])
    """

    def stream(self, batch: int = 1) -> Stream:
        """Refused: a tag depends on the words after it."""
        raise InputError(
            "a Tagger reads whole sentences, so it has no stream of words; call tag(words, lengths)."
        )

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
        ids, valid = self._checked(words, lengths)
        made = Window(self, ids.shape[1]).call(ids, valid)
        return made[..., : ids.shape[1]].transpose(1, 2).contiguous()

    def _checked(self, words: Any, lengths: Any) -> tuple[Tensor, Tensor | None]:
        fits = isinstance(words, Tensor) and words.ndim == 2 and words.dtype == torch.int64 and words.numel()
        if not fits or not bool((words >= 0).all() & (words < self.vocabulary_size).all()):
            what = f"{words.dtype} {tuple(words.shape)}" if isinstance(words, Tensor) else repr(words)[:60]
            raise InputError(
                f"the words are {what}; a tagger reads int64 (T, B) of ids from 0 to {self.vocabulary_size - 1}."
            )
        if lengths is None:
            return words.contiguous(), None
        known = (
            isinstance(lengths, Tensor) and lengths.shape == words.shape[1:] and lengths.dtype == torch.int64
        )
        if not known or not bool((lengths >= 1).all() & (lengths <= len(words)).all()):
            raise InputError(
                f"the lengths are {str(lengths)[:60]}; they must be int64, one for each of {words.shape[1]} "
                f"sentences, from 1 to {len(words)}."
            )
        return words.contiguous(), lengths.to(torch.int32)
