"""Embedding, recurrent stack, head."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple, Protocol, TypedDict

from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Entries, Kind, Positive, Size, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make, name_of
from sparsernn.core.states import State
from sparsernn.nn import (
    EMBEDDINGS,
    HEADS,
    LAYERS,
    TIED_HEADS,
    BlockEmbedding,
    Embedding,
    Head,
    Layer,
    Stack,
)
from sparsernn.nn.dropout import drop
from sparsernn.structure.units import Units

LayerSpecs = Annotated[Spec, Kind("layer")] | Sequence[Annotated[Spec, Kind("layer")]]
Sizes = Annotated[Sequence[Size], Entries(1)]
DROPOUTS = ("embedding", "input", "hidden", "output")


class Dropouts(TypedDict, total=False):
    """Probabilities of dropping, 0 unless given, and whether a mask holds for all time steps of a window."""

    embedding: DropRate
    input: DropRate
    hidden: DropRate
    output: DropRate
    locked: bool


class Features(NamedTuple):
    """What the top of the stack gives for a window."""

    dropped: Tensor
    """(T, B, H) after the output dropout: what the head reads, and what AR penalises."""
    raw: Tensor
    """(T, B, H) before it: what TAR penalises."""
    state: State


class LanguageModel(Model):
    """A recurrent language model.

    Args:
        vocabulary_size: V.
        embedding_size: E, at least 1.
        hidden_sizes: H of each layer, from the bottom, at least 1 each.
        layer: spec of the layers, {name: ..., its settings}, or a list with one for each; sizes come from
            `hidden_sizes`.
        head: spec of the head; with an embedding in strips, tied, one of those that can decode with it.
        tied: decode with the embedding's weight; the last hidden size must then equal `embedding_size`, unless the
            head brings what it reads to that size itself (a mixture).
        dropout: probabilities `embedding` (whole word types), `input` (after the embedding), `hidden` (between
            layers), `output` (before the head), all 0 unless given, and `locked` (default False): one mask for all
            time steps of a window.
        embedding: spec of the embedding, "dense" or {name: block, blocks: 10, density: 0.5}; sizes and dropout come
            from the other settings.
        init: all matrices and the bias of the softmax begin U(-init, init), above 0; the layers' biases as the layers
            have them. None: everything as its own part has it.

    Example:
        >>> import torch
        >>> model = LanguageModel(10, 4, [6, 6])
        >>> features = model(torch.zeros(5, 2, dtype=torch.long))
        >>> features.raw.shape
        torch.Size([5, 2, 6])
    """

    reads = "words"

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        embedding_size: Size,
        hidden_sizes: Sizes,
        layer: LayerSpecs = "lstm",
        head: Annotated[Spec, Kind("head")] = "linear",
        tied: bool = False,
        dropout: Dropouts | None = None,
        embedding: Annotated[Spec, Kind("embedding")] = "dense",
        init: Positive | None = None,
    ) -> None:
        super().__init__()
        given: Mapping[str, Json] = {} if dropout is None else dropout
        self.dropout = {name: given.get(name, 0.0) for name in DROPOUTS}
        self.locked = bool(given.get("locked", False))
        self.embedding: Embedding | BlockEmbedding = make(
            "embedding",
            EMBEDDINGS,
            embedding,
            vocabulary_size=vocabulary_size,
            embedding_size=embedding_size,
            dropout=self.dropout["embedding"],
        )
        layers = layers_between(layer, [embedding_size, *hidden_sizes])
        self.layers = Stack(layers, self.dropout["hidden"], self.locked)
        self.tied = tied
        self.head: Head = make(
            "head",
            TIED_HEADS.get(name_of(embedding), HEADS) if tied else HEADS,
            head,
            vocabulary_size=vocabulary_size,
            input_size=hidden_sizes[-1],
            embedding_size=embedding_size,
            tied=self.embedding.decoder if tied else None,
        )
        if init is not None:
            self._initialise(init)

    def _initialise(self, bound: float) -> None:
        own_bias = list(self.layers.parameters())
        for parameter in self.parameters():
            if parameter.ndim > 1 or all(parameter is not p for p in own_bias):
                nn.init.uniform_(parameter, -bound, bound)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        size: int = self.embedding.vocabulary_size
        return size

    def initial_state(self, batch: int) -> State:
        """State before the first word of `batch` streams."""
        return self.layers.initial_state(batch)

    def forward(self, words: Tensor, state: State = None) -> Features:
        """words (T, B) int64 -> the top of the stack."""
        x = drop(self.embedding(words), self.dropout["input"], self.training, self.locked)
        raw, state = self.layers(x, state)
        return Features(drop(raw, self.dropout["output"], self.training, self.locked), raw, state)

    def penalty(self) -> Tensor | float:
        """The layers' own regularisers."""
        return sum((layer.penalty() for layer in self.layers.members), 0.0)

    def answers(self, output: Features) -> Iterator[Tensor]:
        """log P(word), (T, B, V)."""
        yield self.head.log_prob(output.raw)

    def units(self) -> list[Units]:
        """Hidden units of every layer, from the bottom, each with all its readers.

        With tied weights a unit of the last layer is a column of the embedding too, and so an input of the first,
        where the head decodes the units themselves; a head that projects them first reads them there alone. What the
        first layer reads is then that column, not the unit.
        """
        first, last = self.layers.members[0], self.layers.members[-1]
        top = last.as_units(f"layer {len(self.layers) - 1}", self.head.inputs())
        if self.tied and self.head.decodes_directly:
            fed = tuple(replace(s, reads=False) for s in first.inputs())
            top = replace(top, slices=top.slices + fed, silence=top.silence and top.silence + fed)
        return [*self.layers.units(), top]

    def resized(self, settings: Mapping[str, Json]) -> dict[str, Json]:
        """The constructor's settings, as a recipe has them, with the sizes that the weights have now."""
        layers = self.layers.members
        sizes = {
            "embedding_size": layers[0].input_size,
            "hidden_sizes": [layer.hidden_size for layer in layers],
        }
        return {
            **settings,
            **sizes,
            **layer_specs(settings.get("layer", "lstm"), layers),
            **part_spec(settings, "head", "linear", self.head),
            **part_spec(settings, "embedding", "dense", self.embedding),
        }


class Resized(Protocol):
    """A part of a model that says its own size."""

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """The settings that make it as it is now."""


def part_spec(settings: Mapping[str, Json], key: str, default: Spec, part: Resized) -> dict[str, Json]:
    """A model's setting `key` as its part is now: {} where nothing changed."""
    spec = settings.get(key, default)
    before = {"name": spec} if isinstance(spec, str) else dict(spec)
    after = part.resized(before)
    return {} if after == before else {key: after}


def layer_specs(spec: Spec | Sequence[Spec], layers: Sequence[Layer]) -> dict[str, Json]:
    """The setting `layer` of a model as its layers are now: {} where nothing changed, one spec where all agree."""
    before = [spec] * len(layers) if isinstance(spec, str | Mapping) else list(spec)
    specs = [{"name": one} if isinstance(one, str) else dict(one) for one in before]
    after = [layer.resized(one) for layer, one in zip(layers, specs, strict=True)]
    if after == specs:
        return {}
    return {"layer": after[0] if all(one == after[0] for one in after) else after}


@checked
def specs_for(spec: LayerSpecs, count: int) -> Sequence[Spec]:
    """The spec of each of `count` layers; `spec` is one for all, or a list of one for each.

    Raises:
        InputError: a list of another length, or no spec at all.
    """
    specs = [spec] * count if isinstance(spec, str | Mapping) else spec
    if len(specs) != count:
        raise InputError(
            f"layer is {spec!r}; it must be one spec for all layers or a list of {count}, one for each hidden size."
        )
    return specs


def layers_between(spec: Spec | Sequence[Spec], sizes: Sequence[int]) -> list[Layer]:
    """The layers between neighbouring `sizes`; see `specs_for`."""
    pairs = zip(specs_for(spec, len(sizes) - 1), itertools.pairwise(sizes), strict=True)
    return [make("layer", LAYERS, one, input_size=i, hidden_size=h) for one, (i, h) in pairs]
