"""Language models whose tokens, or windows of them, are one call into C, or the same in torch."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.autotune import fastest
from sparsernn.deploy.step_list import CCall, CompiledList, Place, Step, StepList
from sparsernn.deploy.step_twins import TWINS
from sparsernn.deploy.token_stream import LARGEST_WINDOW, Reader, Stream
from sparsernn.kernels.library import check_threads, library
from sparsernn.kernels.weight_formats import FORMATS, Csr, Dense, DenseInt8, Format, padded

LOOKED_UP = (Dense, DenseInt8, Csr)
"""Formats in which one row can be read by itself (CsrInt8 is a Csr)."""


class StepRuntime(ABC):
    """A model written as steps, and its weights in the formats that they are fastest in.

    Args:
        steps: what a token, or a window, goes through.
        held: parameter name -> its `Format`; "embedding.weight" is looked up.
        threads: of a call; None times one thread against torch's number and keeps the faster.
        batch: columns that the number of threads is chosen for.

    Attributes:
        vocabulary_size: V; 0 where vectors are read.
        outputs: the rows that hold each time step's answer at its end.
        library: the compiled kernels, or None where the twins compute.
    """

    def __init__(
        self, steps: StepList, outputs: Place, held: Mapping[str, Format], threads: int | None, batch: int
    ) -> None:
        check_threads(threads)
        self.steps, self.outputs, self.held = steps, outputs, dict(held)
        self.vocabulary_size = held["embedding.weight"].shape[0] if "embedding.weight" in held else 0
        self.library = library()
        self.compiled = CompiledList(steps, outputs)
        self.threads = 1 if self.library is None else self._threads(threads, batch)

    def _threads(self, wanted: int | None, batch: int) -> int:
        assert self.library is not None
        most = self.library.threads(wanted)
        if wanted is not None or most == 1:
            return most
        return int(fastest({str(n): self._timed(n, batch) for n in (1, most)}))

    def _timed(self, threads: int, batch: int) -> Callable[[], object]:
        window = Window(self, batch, threads)
        inputs = self.steps.inputs.rows
        x = torch.zeros(1, batch, inputs) if inputs else torch.zeros(1, batch, dtype=torch.int64)
        return lambda: window.call(x)

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

    @abstractmethod
    def reader(self, batch: int = 1) -> Reader:
        """Whatever reads so many sequences at once, 1 to 16."""


class CompiledRuntime(StepRuntime):
    """A language model written as steps; see `StepRuntime`."""

    def stream(self, batch: int = 1) -> Stream:
        """New texts, from the model's initial state; `batch` from 1 to 16."""
        return CompiledStream(self, batch)

    def reader(self, batch: int = 1) -> Reader:
        """The same as a stream."""
        return self.stream(batch)


class Window:
    """The two stores of a model, and a call that reads so many time steps of so many columns.

    Attributes:
        fixed: (rows, width), with the states.
    """

    def __init__(self, runtime: StepRuntime, batch: int, threads: int | None = None) -> None:
        self.runtime, self.batch, self.width = runtime, batch, padded(batch)
        self.threads = runtime.threads if threads is None else threads
        self.fixed = torch.zeros(runtime.steps.fixed, self.width, dtype=torch.float32)
        self._scratch = torch.zeros(self.threads * self.width * runtime.compiled.scratch, dtype=torch.int16)
        self._list = ctypes.addressof(runtime.compiled.structure)
        self._token = torch.zeros(
            1, runtime.steps.moving, self.width, dtype=torch.float32
        )  # the moving store of a single token
        self._ids: Any = (ctypes.c_int64 * batch)()
        self._one = self._call(self._token, ctypes.addressof(self._ids), None, None)
        self.begin()

    def _call(self, moving: Tensor, words: int | None, lengths: int | None, answers: int | None) -> CCall:
        here = (self.fixed.data_ptr(), moving.data_ptr(), self._scratch.data_ptr(), words, lengths, answers)
        return CCall(*here, len(moving), self.batch, self.width, self.threads)

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
        """One time step, B ids within the vocabulary -> answers (B, O)."""
        self._ids[:] = ids
        return self._do_one(torch.tensor([ids]) if self.runtime.library is None else None)

    def vector(self, x: Tensor) -> Tensor:
        """One time step, x (B, I) -> answers (B, O)."""
        self._put(self._token, x.unsqueeze(0))
        return self._do_one(None)

    def _do_one(self, words: Tensor | None) -> Tensor:
        made = torch.empty(self.batch, self.runtime.outputs.rows, dtype=torch.float32)
        if self.runtime.library is None:
            self._twin(self._token, words, None, made.unsqueeze(0))
        else:
            self._one.answers = made.data_ptr()
            self.runtime.library.steps(self._list, ctypes.addressof(self._one))
        return made

    def call(self, x: Tensor, lengths: Tensor | None = None, made: Tensor | None = None) -> Tensor:
        """x (T, B) int64 within the vocabulary or (T, B, I), lengths (B,) int32 -> answers (T, B, O), in `made`."""
        shape = (len(x), self.batch, self.runtime.outputs.rows)
        made = torch.empty(shape, dtype=torch.float32) if made is None else made
        moving = torch.zeros(len(x), self.runtime.steps.moving, self.width, dtype=torch.float32)
        words = x if self.runtime.vocabulary_size else None
        if words is None:
            self._put(moving, x)
        if self.runtime.library is None:
            self._twin(moving, words, lengths, made)
        else:
            places = [None if given is None else given.data_ptr() for given in (words, lengths, made)]
            here = self._call(moving, *places)
            self.runtime.library.steps(self._list, ctypes.addressof(here))
        return made

    def _put(self, moving: Tensor, x: Tensor) -> None:
        place = self.runtime.steps.inputs
        moving[:, place.row : place.row + place.rows, : self.batch] = x.transpose(1, 2)

    @torch.no_grad()
    def _twin(
        self, moving: Tensor, words: Tensor | None, lengths: Tensor | None, made: Tensor | None
    ) -> None:
        """The same in torch; see steps.c."""
        outputs = self.runtime.outputs
        for steps, backwards in self.runtime.steps.passes:
            for t in reversed(range(len(moving))) if backwards else range(len(moving)):
                for step in steps:
                    y, a, b, c = (
                        self._operand(place, moving[t]) for place in (step.y, step.a, step.b, step.c)
                    )
                    if step.kind == "lookup":
                        assert step.first is not None
                        assert words is not None
                        y[:, : self.batch] = _rows(step.first, words[t]).t()
                    elif step.kind == "keep":
                        if lengths is not None:
                            y[:, : self.batch][:, t >= lengths] = 0
                    else:
                        self._do(step, y, a, b, c)
                if made is not None:  # what an earlier pass leaves is written over
                    made[t] = self._operand(outputs, moving[t])[:, : self.batch].t()

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


class CompiledReading:
    """What a batch of sequences remembers that is read by a model written as steps.

    Args:
        runtime: of the model.
        batch: B, 1 to 16.

    `state` is a tuple of one tuple of (B, .) for each layer.
    """

    def __init__(self, runtime: StepRuntime, batch: int) -> None:
        self.runtime, self.batch = runtime, batch
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

    def _several(self, x: Tensor) -> Tensor:
        """x (T, B) or (T, B, I), T at least 1 -> answers (T, B, rows), in as few calls as memory allows."""
        outputs = self.runtime.outputs.rows
        size = max(1, LARGEST_WINDOW // (self._window.width * (self.runtime.steps.moving + outputs)))
        made = torch.empty(len(x), self.batch, outputs, dtype=torch.float32)
        for part, place in zip(torch.split(x, size), torch.split(made, size), strict=True):
            self._window.call(part, made=place)
        return made


class CompiledStream(CompiledReading, Stream):
    """Texts read by a language model written as steps."""

    def __init__(self, runtime: CompiledRuntime, batch: int) -> None:
        super().__init__(runtime, batch)
        self.vocabulary_size = runtime.vocabulary_size

    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One token."""
        return self._window.token(self._ids(words))

    def read(self, inputs: Tensor) -> Tensor:
        """Reads several in as few calls as memory allows: ids (T, B) -> scores (T, B, V)."""
        ids = self._ids_of_window(inputs)
        return self._several(ids) if len(ids) else torch.zeros(0, self.batch, self.vocabulary_size)


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isfinite(tensor).all())


def _told(shapes: list[tuple[int, int]]) -> str:
    if len(shapes) == 2 and shapes[0] == shapes[1]:
        return f"two of {shapes[0]}"
    return " and ".join(f"one of {shape}" for shape in shapes)
