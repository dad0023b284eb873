"""How whole models are written as steps: language models, from modules or from tensors by name, taggers, and models
of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Part
from sparsernn.deploy.autotune import kept_of
from sparsernn.deploy.compiled_runtime import LOOKED_UP
from sparsernn.deploy.head_steps import HEADS, decoder_of
from sparsernn.deploy.layer_steps import BUILD, HeldWeights, block_lstm, plain, written
from sparsernn.deploy.step_list import Place, Step, StepList
from sparsernn.kernels.weight_formats import FORMATS, Format
from sparsernn.nn import LSTM, BlockEmbedding, BlockLSTM, LinearHead
from sparsernn.nn.drive.layer import Stack
from sparsernn.nn.words.word_embedding import Embedding

TABLE = "embedding.weight"
TABLES = (Embedding, BlockEmbedding)


class Written(NamedTuple):
    """A model as steps.

    Attributes:
        steps: the list.
        outputs: where each time step's answer stands at its end.
        held: name -> `Format`.
    """

    steps: StepList
    outputs: Place
    held: dict[str, Format]


class LSTMTensors(NamedTuple):
    """A layer given by its tensors."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


class HeadTensors(NamedTuple):
    """A linear head given by its tensors."""

    weight: Tensor
    bias: Tensor


def table_of(embedding: Embedding | BlockEmbedding) -> Tensor:
    """Word vectors (V, E); strips with the zeros that they leave out.

    Example:
        >>> table_of(BlockEmbedding(10, 4, blocks=2, density=0.75)).shape
        torch.Size([10, 4])
    """
    return embedding.dense() if isinstance(embedding, BlockEmbedding) else embedding.weight


def is_written(model: nn.Module) -> bool:
    """Whether a language model computes what its steps would: no part of it, nor the whole, is another's version.

    Its embedding is "dense", or is in strips, which become a table with zeros.
    """
    layers, forward = getattr(model, "layers", None), getattr(type(model).forward, "__module__", "")
    return (
        forward == "sparsernn.models.language_model"
        and type(getattr(model, "embedding", None)) in TABLES
        and type(getattr(model, "head", None)) in HEADS
        and isinstance(layers, Stack)
        and all(map(written, layers))
        and all(p.is_floating_point() and p.numel() for p in model.parameters())
    )


def is_written_tagger(model: nn.Module) -> bool:
    """The same of a tagger."""
    layers, forward = getattr(model, "layers", None), getattr(type(model).forward, "__module__", "")
    return (
        forward == "sparsernn.models.tagger"
        and type(getattr(model, "embedding", None)) in TABLES
        and isinstance(layers, nn.ModuleList)
        and all(
            type(layer) is BlockLSTM and layer.bidirectional and not layer.batch_first for layer in layers
        )
        and all(type(getattr(model, name, None)) is nn.Linear for name in ("hidden", "output"))
    )


def is_written_sequence_model(model: nn.Module) -> bool:
    """The same of a model of vectors."""
    layers, kind = getattr(model, "layers", None), type(model)
    parts = (kind.forward, getattr(kind, "read_out", None))
    return (
        all(getattr(part, "__module__", "") == "sparsernn.models.sequence_model" for part in parts)
        and type(getattr(model, "output", None)) is nn.Linear
        and isinstance(layers, Stack)
        and all(map(written, layers))
        and all(p.is_floating_point() and p.numel() for p in model.parameters())
    )


def of_language_model(model: Part, weights: HeldWeights) -> Written:
    """Its layers and head."""
    table, head = table_of(model.embedding), model.head
    named = [(f"layers.{n}", layer) for n, layer in enumerate(model.layers)]
    return _of_parts(table, named, head, weights)


def of_tensors(state: Mapping[str, Tensor], layers: int, weights: HeldWeights) -> Written:
    """Stacked LSTM layers and a linear head, by the names that a language model has."""
    names = [f"layers.{n}" for n in range(layers)]
    named = [
        (name, LSTMTensors(*(state[f"{name}.{part}"] for part in LSTMTensors._fields))) for name in names
    ]
    head = HeadTensors(state.get("head.weight", state[TABLE]), state["head.bias"])
    return _of_parts(state[TABLE], named, head, weights)


def _of_parts(table: Tensor, named: list[tuple[str, Part]], head: Part, weights: HeldWeights) -> Written:
    steps, tied = (
        StepList(),
        _alike(table, head.weight if isinstance(head, HeadTensors) else decoder_of(head)),
    )
    if tied:
        weights.other_names["head.weight"] = TABLE
    x = steps.room(table.shape[1])
    lookup = Step("lookup", x)
    steps.add(lookup)
    for name, layer in named:
        x = BUILD[LSTM if isinstance(layer, LSTMTensors) else type(layer)](steps, weights, layer, name, x)
    outputs = HEADS[LinearHead if isinstance(head, HeadTensors) else type(head)](steps, weights, head, x)
    own = weights.held.get("head.weight")
    shared = tied and isinstance(own, LOOKED_UP)
    lookup.first = own if shared else _table(table, weights.masks.get(TABLE))
    assert lookup.first is not None
    return Written(steps, outputs, {**weights.held, TABLE: lookup.first})


def of_tagger(model: Part, weights: HeldWeights) -> Written:
    """Words, both directions of each layer, tanh, tags: each a pass over the sentence."""
    steps = StepList()
    table = _table(table_of(model.embedding), weights.masks.get(TABLE))
    x = steps.moving_room(table.shape[1])
    steps.add(Step("lookup", x, first=table))
    for n, layer in enumerate(model.layers):
        y = steps.moving_room(layer.hidden_size)
        half = layer.hidden_size // 2
        for backwards, suffix in enumerate(layer.suffixes):
            steps.new_pass(bool(backwards))
            h, c = block_lstm(steps, weights, layer, f"layers.{n}", x, suffix)
            steps.states.append((h, c))
            if backwards:
                steps.add(Step("keep", h, wait=False), Step("keep", c))
            steps.add(Step("copy", y.part(backwards * half, half), h))
        x = y
    steps.new_pass()
    before, hidden = (steps.room(model.hidden.out_features) for _ in range(2))
    outputs = steps.room(model.output.out_features)
    steps.add(
        _linear("hidden", model.hidden, before, x, weights),
        Step("tanh", hidden, before),
        _linear("output", model.output, outputs, hidden, weights),
    )
    return Written(steps, outputs, {**weights.held, TABLE: table})


def of_sequence_model(model: Part, weights: HeldWeights) -> Written:
    """Its layers and read-out."""
    steps = StepList()
    x = steps.inputs = steps.moving_room(model.input_size)
    for n, layer in enumerate(model.layers):
        x = BUILD[type(layer)](steps, weights, layer, f"layers.{n}", x)
    outputs = steps.room(model.output_size)
    steps.add(_linear("output", model.output, outputs, x, weights))
    return Written(steps, outputs, weights.held)


def _linear(name: str, layer: nn.Linear, y: Place, x: Place, weights: HeldWeights) -> Step:
    bias = torch.zeros(layer.out_features) if layer.bias is None else plain(layer.bias)
    return Step("affine", y, x, vector=bias, first=weights.take(f"{name}.weight", layer.weight))


def _alike(table: Tensor, weight: Tensor) -> bool:
    return weight is table or (weight.shape == table.shape and torch.equal(weight, table))


def _table(weight: Tensor, mask: Tensor | None) -> Format:
    """An embedding to look words up in: without the absent weights where that takes less memory."""
    compressed = 6 * int(kept_of(weight, mask).sum()) < 4 * weight.numel()
    return FORMATS["csr" if compressed else "dense"](weight, mask)


def check_given(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], products: str | Mapping[str, str]
) -> None:
    """Refuse numbers that are not finite, and masks or products that do not fit.

    Raises:
        InputError: in one sentence, which.
    """
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has numbers that are not finite, so nothing can be computed with it.")
    names = state.keys() | {"head.weight"}
    for what, given in (("mask", masks), ("product", products if isinstance(products, Mapping) else {})):
        if odd := sorted(given.keys() - names):
            raise InputError(
                f"there is a {what} for '{odd[0]}', but the model has {', '.join(sorted(names))}."
            )
    for name, mask in masks.items():
        weight = state.get(name)
        if weight is not None and weight.shape == mask.shape and bool(weight[~mask.bool()].any()):
            raise InputError(f"{name} is not 0 where its mask says absent; mask it first.")
