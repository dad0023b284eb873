"""A tagger: embedding, recurrent layers that read a sentence from both ends, a label for every word."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, TypedDict

from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Kind, Size, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.models.language_model import LayerSpecs, layer_specs, part_spec, specs_for
from sparsernn.nn import EMBEDDINGS, BlockEmbedding, BlockLSTM, Embedding
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.dropout import drop
from sparsernn.structure.units import Slice, Units

DROPOUTS = ("embedding", "input", "hidden")


class Dropouts(TypedDict, total=False):
    """Probabilities of dropping word types, features of the embedding, and outputs of the layers, 0 unless given."""

    embedding: DropRate
    input: DropRate
    hidden: DropRate


class Widths(TypedDict):
    """H of each direction of every layer from the bottom, and that of the layer before the last."""

    layers: Sequence[Size]
    hidden: Size


def both_ways(input_size: int, hidden_size: int, weight_drop: float = 0.0) -> BlockLSTM:
    """A dense LSTM in each direction: a block LSTM of one block.

    Args:
        input_size: I.
        hidden_size: H of each direction.
        weight_drop: probability in [0, 1) of dropping each recurrent weight of both directions.

    Example:
        >>> sum(p.numel() for p in both_ways(20, 10).parameters())
        2560
    """
    return BlockLSTM(
        input_size, hidden_size, blocks=1, density=1.0, weight_drop=weight_drop, bidirectional=True
    )


BOTH_WAYS: dict[str, Callable[..., BlockLSTM]] = {
    "lstm": both_ways,
    "block_lstm": partial(BlockLSTM, bidirectional=True),
}
"""Layers that read a sequence from both ends, by name."""


class Tagger(Model):
    """Scores of every tag for every word of a sentence.

    words -> embedding -> layers, each from both ends -> linear to H -> tanh -> linear to the tags

    Args:
        vocabulary_size: V.
        tags: K, the number of different tags.
        embedding_size: E.
        hidden_size: H of each direction, and of the layer before the last; or {layers: [H of each direction, for each
            layer from the bottom], hidden: that of the layer before the last}.
        layers: number of recurrent layers, at least 1.
        layer: spec of the layers, "lstm" or "block_lstm", or a list with one for each; `weight_drop` meets both
            directions.
        embedding: spec of the embedding, "dense" or {name: block, blocks: 20, density: 0.25}.
        dropout: probabilities `embedding` (whole word types), `input` (features of the embedding, the same ones for a
            whole sentence) and `hidden` (after every recurrent layer and after tanh), 0 unless given.

    Example:
        >>> import torch
        >>> model = Tagger(100, 5, embedding_size=20, hidden_size=10)
        >>> model(torch.zeros(7, 2, dtype=torch.long), torch.tensor([7, 3])).shape
        torch.Size([7, 2, 5])

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: weight drop meets both directions and all layers, not the first forward one alone.
    """

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        tags: Size,
        embedding_size: Size,
        hidden_size: Size | Widths,
        layers: Size = 1,
        layer: LayerSpecs = "lstm",
        embedding: Annotated[Spec, Kind("embedding")] = "dense",
        dropout: Dropouts | None = None,
    ) -> None:
        super().__init__()
        given: Mapping[str, Json] = {} if dropout is None else dropout
        hidden, last = tagger_widths(hidden_size, layers)
        self.dropout = {name: given.get(name, 0.0) for name in DROPOUTS}
        sizes = {"vocabulary_size": vocabulary_size, "embedding_size": embedding_size}
        self.embedding: Embedding | BlockEmbedding = make(
            "embedding", EMBEDDINGS, embedding, **sizes, dropout=self.dropout["embedding"]
        )
        read = [embedding_size, *(2 * width for width in hidden)]
        self.layers = nn.ModuleList(
            make("layer", BOTH_WAYS, spec, input_size=inputs, hidden_size=width)
            for spec, inputs, width in zip(specs_for(layer, layers), read, hidden, strict=False)
        )
        self.hidden = nn.Linear(read[-1], last)
        self.output = nn.Linear(last, tags)

    def initial_state(self, batch: int) -> None:
        """None: sentences have nothing to do with each other."""

    def forward(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read a batch of sentences.

        Args:
            words: (T, B) int64.
            lengths: words of each sentence, (B,) on the CPU; missing: T. What stands beyond is not read.

        Returns:
            scores before the softmax, (T, B, K); beyond a sentence's end without a meaning.
        """
        x = drop(self.embedding(words), self.dropout["input"], self.training, locked=True)
        for layer in self.layers:
            y, _ = layer(x, lengths=lengths)
            x = drop(y, self.dropout["hidden"], self.training)
        x = drop(self.hidden(x).tanh(), self.dropout["hidden"], self.training)
        scores: Tensor = self.output(x)
        return scores

    def units(self) -> list[Units]:
        """Hidden units of the recurrent layers, one direction after the other, and of the layer before the last."""
        recurrent = [layer for layer in self.layers if isinstance(layer, Layer)]
        readers = [layer.inputs() for layer in recurrent[1:]] + [(Slice(self.hidden, "weight", 1),)]
        own = (Slice(self.hidden, "weight", 0), Slice(self.hidden, "bias", 0, in_norm=False))
        return [
            *(
                layer.as_units(f"layer {k}", reader)
                for k, (layer, reader) in enumerate(zip(recurrent, readers, strict=True))
            ),
            Units("hidden", len(self.hidden.weight), (*own, Slice(self.output, "weight", 1)), own),
        ]

    def resized(self, settings: Mapping[str, Json]) -> dict[str, Json]:
        """The constructor's settings, as a recipe has them, with the sizes that the weights have now."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        widths = [layer.hidden_size // 2 for layer in layers]
        last = len(self.hidden.weight)
        alike = set(widths) == {last}
        return {
            **settings,
            "hidden_size": last if alike else {"layers": widths, "hidden": last},
            **layer_specs(settings.get("layer", "lstm"), layers),
            **part_spec(settings, "embedding", "dense", self.embedding),
        }


@checked
def tagger_widths(hidden_size: Size | Widths, layers: Size) -> tuple[list[int], int]:
    """H of each direction of every layer, and the width of the layer before the last.

    Raises:
        InputError: sizes that are no whole numbers above 0, or not one for each layer.

    Example:
        >>> tagger_widths(10, 2), tagger_widths({"layers": [10, 8], "hidden": 5}, 2)
        (([10, 10], 10), ([10, 8], 5))
    """
    if not isinstance(hidden_size, Mapping):
        return [hidden_size] * layers, hidden_size
    if len(hidden_size["layers"]) != layers:
        raise InputError(
            f"hidden_size is {hidden_size!r}; it must be {{layers: [one for each of {layers}], hidden: another}}."
        )
    return list(hidden_size["layers"]), hidden_size["hidden"]
