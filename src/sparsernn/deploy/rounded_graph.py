"""One step of a language model as an ONNX graph with weights of 8 or 4 bits, for onnxruntime."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Between, OneOf
from sparsernn.core.plain import Json
from sparsernn.deploy.calibration import round_matrices
from sparsernn.deploy.graph_export import (
    Exported,
    OneStep,
    difference_of_steps,
    export_sequences,
    require_onnx,
    run_onnx,
)
from sparsernn.deploy.graphs.onnx_graph import NEWEST, OLDEST, USUAL, Graph
from sparsernn.deploy.graphs.onnx_steps import write_steps
from sparsernn.deploy.graphs.rounded_products import RoundedGraph
from sparsernn.deploy.layer_steps import HeldWeights
from sparsernn.deploy.model_steps import is_written, of_language_model
from sparsernn.deploy.token_stream import Stream
from sparsernn.kernels.group_rounding import BITS
from sparsernn.nn import BlockEmbedding, LinearHead

STEPS = 50
"""Of a text that are read at once to be scored."""


@torch.no_grad()
def export_rounded(
    model: nn.Module,
    path: str | Path,
    facts: Mapping[str, Json] | None = None,
    *,
    opset: int | None = None,
    values: str = "int8",
) -> Exported:
    """Write one step of a language model with all matrices in 8 or 4 bits, read the file back, and compare.

    Weights are those of packed files and plain C, the embedding included: 255 levels and a factor per row, or 16
    levels and a factor per 64 columns of a row; a tied weight is stored once. They are multiplied by MatMulNBits, an
    operator of onnxruntime, which rounds the inputs of products to 8 bits as well, in blocks; that is where the speed
    comes from. All else is float32.

    Args:
        model: with the embedding "dense", any of the layers from left to right, and any of the heads "linear",
            "mixture" and "split".
        path: ends in `.onnx`.
        facts: plain data by name that the file is to carry, each as JSON.
        opset: version of the operators, 13 to 23; 18 unless given.
        values: "int8" or "int4".

    Returns:
        What was written; `difference` is the one from the same model with its matrices rounded, whose products read
        exact inputs.

    Raises:
        InputError: another ending or model, an opset out of range, or packages that are missing.

    Example:
        >>> import tempfile
        >>> from sparsernn.models.language_model import LanguageModel
        >>> path = Path(tempfile.mkdtemp()) / "model.onnx"
        >>> export_rounded(LanguageModel(10, 4, [6]), path).inputs["words"]  # doctest: +SKIP
        ('B',)
    """
    path = Path(path)
    check_value("opset", opset, Annotated[int, Between(OLDEST, NEWEST)] | None)
    check_value("values", values, Annotated[str, OneOf(BITS)])
    if path.suffix != ".onnx":
        raise InputError(
            f"{path.name!r} does not end in .onnx, the format that {BITS[values]} bits are written in."
        )
    if not is_written(model) or isinstance(getattr(model, "embedding", None), BlockEmbedding):
        raise InputError(
            f"a {type(model).__name__} like this has no graph in {BITS[values]} bits; a language model with the "
            "embedding 'dense' and this library's layers, read from left to right, and heads has one."
        )
    require_onnx("sequence")  # nothing is traced, so that onnxscript is not needed
    step = OneStep(model)
    step.model.cpu().float()
    graph = Graph(opset or USUAL, step.model)
    done = of_language_model(step.model, HeldWeights({}, "dense", False, 1))
    start = write_steps(graph, done.steps, done.outputs, type(step.model.head) is not LinearHead, values)
    told = {**(facts or {}), "graph": "step", "weights": values, "start": {n: t.tolist() for n, t in start}}
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.write(path, {name: json.dumps(value) for name, value in told.items()}, type(model).__name__)
    round_matrices(step.model, values)
    inputs, outputs = (
        {name: shape or () for name, _, shape in side} for side in (graph.inputs, graph.outputs)
    )
    return Exported(path, path.stat().st_size, difference_of_steps(step, run_onnx(path)), inputs, outputs)


@torch.no_grad()
def export_rounded_sequences(
    model: nn.Module, path: str | Path, facts: Mapping[str, Json] | None = None, *, opset: int | None = None
) -> Exported:
    """Write a model over whole sequences with its products in 8 bits, read the file back, and compare.

    LSTMs are the operator DynamicQuantizeLSTM, all other products DynamicQuantizeMatMul, both onnxruntime's own. They
    round their inputs with one factor, so that a sequence's numbers depend a little on those beside it.

    Args:
        model: as `export` takes for whole sequences.
        path: ends in `.onnx`.
        facts: plain data by name that the file is to carry, each as JSON.
        opset: version of the operators, 13 to 23; 18 unless given.

    Returns:
        What was written; `difference` is the one from the model itself, in float32.

    Raises:
        InputError: another ending or model, an opset out of range, or packages that are missing.
    """
    path = Path(path)
    check_value("opset", opset, Annotated[int, Between(OLDEST, NEWEST)] | None)
    if path.suffix != ".onnx":
        raise InputError(f"{path.name!r} does not end in .onnx, the format that 8 bits are written in.")
    require_onnx("sequence")
    told = {**(facts or {}), "graph": "sequence", "weights": "int8"}
    return export_sequences(model, path, told, opset or USUAL, RoundedGraph)


def perplexity_of_sequences(path: Path, start: Sequence[Tensor], words: Tensor) -> float:
    """The same as `perplexity`, by a file that reads whole sequences; start: the state of B texts."""
    read, state, total = run_onnx(path), list(start), 0.0
    pairs = zip(torch.split(words[:-1], STEPS), torch.split(words[1:], STEPS), strict=True)
    for part, following in pairs:
        lengths = torch.full((words.shape[1],), len(part))
        given = {"words": part, "lengths": lengths, **{f"state.{k}": t for k, t in enumerate(state)}}
        log_prob, *state = read(given)
        total -= float(log_prob.gather(-1, following.unsqueeze(-1)).double().sum())
    return float(torch.tensor(total / words[1:].numel()).exp())


def perplexity(stream: Stream, words: Tensor) -> float:
    """Of the words (T, B) after the first, as a stream of B texts says them from its present state.

    Example:
        >>> from sparsernn.deploy import runtime
        >>> from sparsernn.models.language_model import LanguageModel
        >>> perplexity(runtime(LanguageModel(10, 4, [6])).stream(2), torch.zeros(5, 2, dtype=torch.long)) > 1
        True
    """
    total = 0.0
    for row, following in itertools.pairwise(words):
        scores = stream.step(row).log_softmax(-1)
        total -= float(scores.gather(1, following.unsqueeze(1)).double().sum())
    return float(torch.tensor(total / words[1:].numel()).exp())
