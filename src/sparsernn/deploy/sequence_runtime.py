"""Models of vectors whose time steps, or windows of them, are one call into C, or the same in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsernn.deploy.compiled_runtime import CompiledReading, StepRuntime
from sparsernn.deploy.token_stream import Reader
from sparsernn.deploy.vector_stream import VectorStream, lengths_of, read_whole

WIDEST = 16
"""Sequences that the kernels read at once."""


class SequenceRuntime(StepRuntime):
    """A model of vectors, read step by step or in windows; `runtime(model)` makes it.

    Attributes:
        input_size: I.
        output_size: O.

    Example:
        >>> from sparsernn.deploy import runtime
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> ready = runtime(SequenceModel(3, 2, [5], "gru"), threads=1)
        >>> ready.stream(4).step(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
        >>> ready.read(torch.zeros(7, 2, 3), [7, 4]).shape   # ragged sequences, each from the initial state
        torch.Size([7, 2, 2])
    """

    @property
    def input_size(self) -> int:
        """I."""
        return self.steps.inputs.rows

    @property
    def output_size(self) -> int:
        """O."""
        return self.outputs.rows

    def stream(self, batch: int = 1) -> VectorStream:
        """New sequences, from the model's initial state; `batch` from 1 to 16."""
        return CompiledVectorStream(self, batch)

    def reader(self, batch: int = 1) -> Reader:
        """The same as a stream."""
        return self.stream(batch)

    def read(self, x: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Whole sequences, as many as there are, each from the initial state; see `VectorStream.read`.

        Returns:
            (T, B, O); beyond a sequence's end without a meaning.

        Raises:
            InputError: what `VectorStream.read` refuses.
        """
        return read_whole(self.stream, x, lengths, WIDEST)


class CompiledVectorStream(CompiledReading, VectorStream):
    """Sequences read by a model of vectors written as steps."""

    def __init__(self, runtime: SequenceRuntime, batch: int) -> None:
        super().__init__(runtime, batch)
        self.input_size, self.output_size = runtime.input_size, runtime.output_size

    def step(self, x: Tensor) -> Tensor:
        """One time step."""
        return self._window.vector(self._vectors(x, 2))

    def read(self, inputs: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Reads several in as few calls as memory allows; ragged ones in a call for each length."""
        x = self._vectors(inputs, 3)
        given, begun = lengths_of(lengths, len(x), self.batch), 0
        made, ended = list[Tensor](), dict[int, Tensor]()
        for end in sorted(set(given)):
            made += [self._several(x[begun:end])] if end > begun else []
            ended |= {k: self._window.fixed[:, k].clone() for k, n in enumerate(given) if n == end}
            begun = end
        for k, column in ended.items():
            self._window.fixed[:, k] = column
        return torch.cat([*made, x.new_zeros(len(x) - begun, self.batch, self.output_size)])
