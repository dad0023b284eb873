"""Sequences of vectors being read one step at a time, or in windows: the interface, and the own forward pass."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Size
from sparsernn.core.plain import Part
from sparsernn.core.states import State, rebuilt, tensors
from sparsernn.deploy.token_stream import Reader, evaluating
from sparsernn.nn.drive.single_step import no_repacking


class VectorStream(Reader):
    """A batch of sequences of vectors being read, with their state.

    Attributes:
        batch: B, how many.
        input_size: I.
        output_size: O, numbers that are said to each step.
        state: what the model remembers, in the form its own forward pass takes; may be set.
    """

    kind = "vectors"
    input_size: int
    output_size: int
    state: Any

    @property
    def size(self) -> int:
        """I."""
        return self.input_size

    def examples(self, steps: int, generator: torch.Generator) -> Tensor:
        """Numbers of a normal distribution, (T, B, I)."""
        return torch.randn(steps, self.batch, self.input_size, generator=generator)

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """Reads one step of each sequence: vectors (B, I) -> what the model says, (B, O)."""

    @abstractmethod
    def read(self, inputs: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Reads several steps.

        Args:
            inputs: (T, B, I).
            lengths: steps of each sequence, B of 1 to T; missing: T. The state is the one after each sequence's own
                last step.

        Returns:
            (T, B, O); beyond a sequence's end without a meaning.

        Raises:
            InputError: other shapes, lengths out of range, or numbers that are not finite.
        """

    def _vectors(self, x: object, axes: int) -> Tensor:
        """x in float32, (B, I) with 2 axes, (T, B, I) with 3."""
        wanted = (self.batch, self.input_size)
        if not isinstance(x, Tensor) or x.is_complex() or x.ndim != axes or tuple(x.shape[-2:]) != wanted:
            what = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{x!r:.60}"
            shape = ", ".join(["T"] * (axes - 2) + [str(size) for size in wanted])
            raise InputError(f"the vectors are {what}; this stream takes a tensor of numbers, ({shape}).")
        made: Tensor = x.detach().to("cpu", torch.float32)
        # a sum that overflows is no fault, and takes the longer way
        if not math.isfinite(made.sum().item()) and not bool(torch.isfinite(made).all()):
            raise InputError(
                "the vectors have numbers that are not finite, so nothing can be computed with them."
            )
        return made


class VectorModuleRuntime:
    """A model of vectors run by its own forward pass, as in evaluation.

    Args:
        model: forward(x (T, B, I), state) -> something with `raw` (T, B, H) and `state`; `read_out(raw)` gives the
            answers, `input_size` and `output_size` are I and O. `SequenceModel` is one. Whether it is in training is
            left as it is.

    Raises:
        InputError: the model lacks one of these, so that nobody can know how a vector is read.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> VectorModuleRuntime(SequenceModel(3, 2, [5], "gru")).stream(4).step(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(self, model: nn.Module) -> None:
        lacking = [name for name in ("read_out", "input_size", "output_size") if not hasattr(model, name)]
        if lacking:
            raise InputError(
                f"a {type(model).__name__} has no {lacking[0]}, so it cannot be read vector by vector; a runtime "
                "takes this library's sequence models, and models with forward(x, state), read_out, input_size and "
                "output_size."
            )
        self.model = model
        self._modules = list(model.modules())

    def describe(self) -> str:
        """One line."""
        return "the model's own forward pass"

    @checked
    def stream(self, batch: Size = 1) -> VectorStream:
        """New sequences, from the model's initial state; `batch` at least 1."""
        return VectorModuleStream(self, batch)

    def reader(self, batch: int = 1) -> Reader:
        """The same as a stream."""
        return self.stream(batch)

    def read(self, x: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Whole sequences, each from the initial state; see `VectorStream.read`."""
        return read_whole(self.stream, x, lengths)

    def said(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (T, B, I) -> (answers (T, B, O), state)."""
        model: Part = self.model
        quick = no_repacking() if len(x) == 1 else nullcontext()
        with torch.no_grad(), quick, evaluating(self._modules):
            read = model(x, state)
            return model.read_out(read.raw), read.state


class VectorModuleStream(VectorStream):
    """Sequences read by a model's own forward pass."""

    def __init__(self, runtime: VectorModuleRuntime, batch: int) -> None:
        model: Part = runtime.model
        self.runtime, self.batch, self.state = runtime, batch, None
        self.input_size, self.output_size = model.input_size, model.output_size
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def step(self, x: Tensor) -> Tensor:
        """One step of the model."""
        said, self.state = self.runtime.said(self._vectors(x, 2).unsqueeze(0).to(self._device), self.state)
        return said[0]

    def read(self, inputs: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """One forward pass, or one for each sequence where lengths are given."""
        x = self._vectors(inputs, 3).to(self._device)
        given = lengths_of(lengths, len(x), self.batch)
        if len(set(given)) == 1:
            made, self.state = self._said(x[: given[0]], self.state)
        else:
            alone = [self._said(x[:n, k : k + 1], self._column(k)) for k, n in enumerate(given)]
            made = nn.utils.rnn.pad_sequence([said[:, 0] for said, _ in alone])
            parts = zip(*(tensors(state) for _, state in alone), strict=True)
            self.state = rebuilt(alone[0][1], (torch.cat(part) for part in parts))
        return torch.cat([made, made.new_zeros(len(x) - len(made), *made.shape[1:])])

    def _said(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not len(x):
            return x.new_zeros(0, x.shape[1], self.output_size), state
        return self.runtime.said(x, state)

    def _column(self, number: int) -> State:
        return rebuilt(self.state, (part[number : number + 1] for part in tensors(self.state)))


def read_whole(
    stream: Callable[[int], VectorStream],
    x: Tensor,
    lengths: Sequence[int] | Tensor | None,
    widest: int | None = None,
) -> Tensor:
    """Sequences (T, B, I) from the initial state, at most `widest` at once -> (T, B, O).

    Raises:
        InputError: x is no such tensor, or what `VectorStream.read` refuses.
    """
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.numel():
        what = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{x!r:.60}"
        raise InputError(f"the vectors are {what}; whole sequences are a tensor (T, B, I), nothing of it 0.")
    size = widest or x.shape[1]
    given = lengths_of(lengths, len(x), x.shape[1])
    return torch.cat(
        [
            stream(part.shape[1]).read(part, given[k * size : (k + 1) * size])
            for k, part in enumerate(torch.split(x, size, 1))
        ],
        1,
    )


def lengths_of(lengths: Sequence[int] | Tensor | None, steps: int, batch: int) -> list[int]:
    """Steps of each sequence of a batch; missing: all of them.

    Raises:
        InputError: not one for each, or out of range.

    Example:
        >>> lengths_of(None, 7, 2), lengths_of(torch.tensor([7, 3]), 7, 2)
        ([7, 7], [7, 3])
    """
    if lengths is None:
        return [steps] * batch
    found: object = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    given = list(found) if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    whole = [n for n in given if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= steps]
    if not len(whole) == len(given) == batch:
        raise InputError(
            f"the lengths are {str(lengths)[:60]}; they must be whole numbers, one for each of {batch} sequences, "
            f"from 1 to {steps}."
        )
    return whole
