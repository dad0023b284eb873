"""Runs files of `sparsernn export RUN --graph sequence --out m.onnx`; numpy and onnxruntime alone: copy this file.

    model = OnnxModel("m.onnx")
    answers = model.run(x, lengths)          numbers in, numbers out; the state is kept for the next call
    model.reset(batch)                       other sequences

What does not fit is a ValueError of one sentence. Texts, tags, series in their own units and questions are in
onnx_tasks.py, to be copied beside this file.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class OnnxModel:
    """A model in a file, and the state in which it is.

    Args:
        path: of the file.

    Attributes:
        told: the file's metadata by name: tokens, style, start, scaling ...
        state: arrays (B, .) by the graph's name of the input.
    """

    def __init__(self, path: str) -> None:
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as fault:  # onnxruntime's own errors have no common base
            raise ValueError(f"{path} is no ONNX file that onnxruntime can load.") from fault
        found = self.session.get_modelmeta().custom_metadata_map
        if json.loads(found.get("graph", "null")) != "sequence":
            raise ValueError(f"{path} is no graph of whole sequences; export it with --graph sequence.")
        self.told: dict[str, Any] = {name: json.loads(text) for name, text in found.items()}
        self.reset()

    def reset(self, batch: int = 1) -> None:
        """Begin anew with so many sequences at once."""
        if batch < 1:
            raise ValueError(f"the batch is {batch}; it must be at least 1.")
        start = self.told["start"].items()
        self.state = {name: np.tile(np.float32(values), (batch, 1)) for name, values in start}

    def run(self, x: Array, lengths: Sequence[int] | None = None) -> Array:
        """Ragged sequences of a language model, tagger or model of vectors; the state is kept for the next call.

        Args:
            x: word ids (T, B), or vectors (T, B, I).
            lengths: steps of each sequence, 1 to T; T if not given. What comes out beyond has no meaning.

        Returns:
            (T, B, .): log-probabilities, scores of tags, or answers.
        """
        name = "words" if "words" in self.told["ids"] else "x"
        x = np.asarray(x, np.int64 if name == "words" else np.float32)
        axes = "(T, B)" if name == "words" else "(T, B, I)"
        if x.ndim != axes.count(",") + 1:
            raise ValueError(f"{name} has the shape {x.shape}; it must be {axes}.")
        steps, batch = x.shape[:2]
        given = np.full(batch, steps) if lengths is None else np.asarray(lengths, np.int64)
        held = {len(values) for values in self.state.values()} or {batch}
        if held != {batch}:
            raise ValueError(
                f"x has {batch} sequences and the state {held.pop()}; reset({batch}) begins anew."
            )
        answer, *after = self.call({name: x, "lengths": given, **self.state}, {"lengths": steps})
        self.state = dict(zip(self.state, after, strict=True))
        return answer

    def call(self, inputs: Mapping[str, Array], longest: Mapping[str, int]) -> list[Array]:
        """The graph itself: all its inputs by name, and what its lengths may be at most -> all its outputs."""
        for name, below in self.told["ids"].items():
            ids = inputs[name]
            if ids.size and not 0 <= ids.min() <= ids.max() < below:
                raise ValueError(
                    f"{name} has ids from {ids.min()} to {ids.max()}; they must be 0 to {below - 1}."
                )
        for name, most in longest.items():
            lengths = inputs[name]
            if not len(lengths) or not 1 <= lengths.min() <= lengths.max() <= most:
                raise ValueError(f"{name} is {lengths.tolist()}; all must be 1 to {most}.")
        if not all(np.isfinite(values).all() for values in inputs.values()):
            raise ValueError("an input has numbers that are not finite, with which nothing can be computed.")
        free: dict[str, int] = {}
        for one in self.session.get_inputs():
            shape = inputs[one.name].shape
            wanted = [free.setdefault(w, s) if isinstance(w, str) else w for w, s in zip(one.shape, shape)]  # noqa: B905
            if len(shape) != len(one.shape) or list(shape) != wanted:
                raise ValueError(
                    f"{one.name} has the shape {shape}; it must be ({', '.join(map(str, one.shape))})."
                )
        found: list[Array] = self.session.run(None, dict(inputs))
        return found
