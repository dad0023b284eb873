"""Exported graphs, read by onnxruntime behind the interface of the other runtimes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed, is_installed
from sparsernn.deploy.token_stream import Reader, SentenceReader, Stream
from sparsernn.deploy.vector_stream import VectorStream, lengths_of

Array = NDArray[Any]


def available() -> bool:
    """Whether onnxruntime is installed.

    Example:
        >>> available() in (True, False)
        True
    """
    return is_installed("onnxruntime")


class OnnxRuntime:
    """A model that `sparsernn.deploy.graph_export.export` wrote as ONNX: one step of it, or whole sequences.

    Args:
        path: the file: of a language model, a model of vectors, or a tagger.
        threads: of a call.

    Attributes:
        bytes: size of the file.
        words: whether ids are read, and not vectors.
        whole: whether a call reads sequences (T, B, ...) with their lengths, and not one step.
        vocabulary_size: V, of ids.

    Raises:
        InputError: onnxruntime is not installed, the file is no ONNX graph, or a graph of something else.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        check_installed("an ONNX graph", "onnxruntime", install="'sparsernn[onnx]'")
        self.session = _session(path, threads)
        self.bytes = Path(path).stat().st_size
        try:
            self._take_axes()
        except (
            ValueError,
            TypeError,
            IndexError,
            AttributeError,
        ) as fault:  # axes or facts of another program
            raise InputError(
                f"{path} is no graph of a language model, a sequence model or a tagger as sparsernn export writes it."
            ) from fault

    def _take_axes(self) -> None:
        """What is read and given, by names, types and axes of the graph and the facts in it."""
        first, *others = self.session.get_inputs()
        scores, *following = self.session.get_outputs()
        self.whole = [one.name for one in others[:1]] == ["lengths"]
        self.state = others[self.whole :]
        self.words = first.type == "tensor(int64)"
        axes = self.whole + (1 if self.words else 2)
        if len(first.shape) != axes or len(following) != len(self.state):
            raise ValueError("other axes")
        told = self.session.get_modelmeta().custom_metadata_map
        self.input, self.start = first.name, json.loads(told.get("start", "{}"))
        self.output_size = int(scores.shape[-1])
        self.input_size = 0 if self.words else int(first.shape[-1])
        below = json.loads(told.get("ids", "{}")).get(first.name, self.output_size)
        self.vocabulary_size = int(below) if self.words else 0

    def describe(self) -> str:
        """One line."""
        return "onnxruntime"

    def stream(self, batch: int = 1) -> Stream | VectorStream:
        """New sequences, from the state that the file says.

        Raises:
            InputError: the graph is a tagger's, which reads whole sentences.
        """
        if not self.state:
            raise InputError(
                "a Tagger reads whole sentences, so it has no stream of words; call reader(batch)."
            )
        return OnnxStream(self, batch) if self.words else OnnxVectorStream(self, batch)

    def reader(self, batch: int = 1) -> Reader:
        """The same as a stream; of a tagger, sentences of one length after the other."""
        if self.state:
            return self.stream(batch)
        held = OnnxState(self, batch)
        return SentenceReader(lambda words: held.run(words, None), self.vocabulary_size, batch)


def _session(path: str | Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if not Path(path).is_file():
        raise InputError(f"{path} is no file; an ONNX graph is wanted.")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime's own errors have no common base
        raise InputError(f"{path} is no ONNX graph that onnxruntime can load.") from fault


class OnnxState:
    """What a batch of sequences remembers between calls of a graph.

    Attributes:
        values: arrays by name of the input.
    """

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        self.runtime, self.batch = runtime, batch
        self.values: dict[str, Array] = {}
        for one in runtime.state:
            start = torch.tensor(runtime.start.get(one.name, [0.0] * int(one.shape[-1])), dtype=torch.float32)
            self.values[one.name] = start.expand(batch, -1).contiguous().numpy()

    def run(self, x: Tensor, lengths: list[int] | None) -> Tensor:
        """One call: x as the graph has it -> what it says."""
        given: dict[str, Array] = {self.runtime.input: x.numpy(), **self.values}
        if self.runtime.whole:
            given["lengths"] = torch.tensor(lengths or [len(x)] * self.batch).numpy()
        said, *after = self.runtime.session.run(None, given)
        self.values = dict(zip(self.values, after, strict=True))
        return torch.from_numpy(said)

    def step(self, x: Tensor) -> Tensor:
        """One time step, x (B, ...) -> (B, .)."""
        return self.run(x.unsqueeze(0), None)[0] if self.runtime.whole else self.run(x, None)

    def window(self, x: Tensor, lengths: list[int] | None = None) -> Tensor:
        """Several, x (T, B, ...) -> (T, B, .)."""
        if not len(x):
            return torch.zeros(0, self.batch, self.runtime.output_size)
        if self.runtime.whole:
            return self.run(x, lengths)
        return torch.stack([self.run(row, None) for row in x])


class _Held:
    """The state of a stream, by place."""

    _held: OnnxState

    @property
    def state(self) -> Sequence[Array]:
        """Arrays in the order of the graph's inputs."""
        return list(self._held.values.values())

    @state.setter
    def state(self, state: Sequence[Array]) -> None:
        """Take up another reading."""
        self._held.values = dict(zip(self._held.values, state, strict=True))


class OnnxStream(_Held, Stream):
    """Texts read by onnxruntime; `state` is a list of arrays in the order of the graph's inputs."""

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        self.batch, self.vocabulary_size = batch, runtime.vocabulary_size
        self._held = OnnxState(runtime, batch)

    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One token."""
        return self._held.step(torch.tensor(self._ids(words)))

    def read(self, inputs: Tensor) -> Tensor:
        """Several: ids (T, B) -> scores (T, B, V), one call where the graph is of whole sequences."""
        return self._held.window(self._ids_of_window(inputs))


class OnnxVectorStream(_Held, VectorStream):
    """Sequences of vectors read by onnxruntime; `state` likewise."""

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        self.batch, self.input_size, self.output_size = batch, runtime.input_size, runtime.output_size
        self._held = OnnxState(runtime, batch)

    def step(self, x: Tensor) -> Tensor:
        """One time step."""
        return self._held.step(self._vectors(x, 2))

    def read(self, inputs: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Several; see `VectorStream`. Ragged ones need a graph of whole sequences."""
        x = self._vectors(inputs, 3)
        given = lengths_of(lengths, len(x), self.batch)
        if not self._held.runtime.whole and given != [len(x)] * self.batch:
            raise InputError(
                f"the lengths are {given}; a graph of one step reads sequences of one length alone."
            )
        return self._held.window(x, given)
