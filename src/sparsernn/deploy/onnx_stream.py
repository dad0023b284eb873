"""Exported one-step graphs of language models, read by onnxruntime behind the interface of the other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed, is_installed
from sparsernn.deploy.token_stream import Stream


def available() -> bool:
    """Whether onnxruntime is installed.

    Example:
        >>> available() in (True, False)
        True
    """
    return is_installed("onnxruntime")


class OnnxRuntime:
    """A language model that `sparsernn.deploy.graph_export.export` wrote as ONNX, one step in a graph.

    Args:
        path: the file: inputs are words (B,) and the state's tensors, outputs scores (B, V) and the next state's.
        threads: of a step.

    Attributes:
        bytes: size of the file.

    Raises:
        InputError: onnxruntime is not installed, or the graph is another one.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        check_installed("an ONNX graph", "onnxruntime", install="'sparsernn[onnx]'")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.bytes = Path(path).stat().st_size
        words, *self.state = self.session.get_inputs()
        scores, *following = self.session.get_outputs()
        if words.type != "tensor(int64)" or len(words.shape) != 1 or len(following) != len(self.state):
            raise InputError(f"{path} is no graph of one step of a language model.")
        self.words, self.vocabulary_size = words.name, int(scores.shape[-1])

    def describe(self) -> str:
        """One line."""
        return "onnxruntime"

    def stream(self, batch: int = 1) -> Stream:
        """New texts, from a state of zeros."""
        return OnnxStream(self, batch)


class OnnxStream(Stream):
    """Texts read by onnxruntime; `state` is a list of arrays in the order of the graph's inputs."""

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        self.runtime, self.batch, self.vocabulary_size = runtime, batch, runtime.vocabulary_size
        shapes = [[batch if isinstance(size, str) else size for size in one.shape] for one in runtime.state]
        self.state: list[Any] = [torch.zeros(shape).numpy() for shape in shapes]

    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One token."""
        given = {one.name: tensor for one, tensor in zip(self.runtime.state, self.state, strict=True)}
        ids = torch.tensor(self._ids(words)).numpy()
        scores, *self.state = self.runtime.session.run(None, {self.runtime.words: ids, **given})
        return torch.from_numpy(scores)
