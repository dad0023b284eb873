"""Vectors in, a recurrent stack, a linear read-out."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.core.states import State
from sparsernn.models.language_model import LayerSpecs, Sizes, layer_specs, layers_between
from sparsernn.nn import Stack
from sparsernn.nn.dropout import drop
from sparsernn.structure.units import Slice, Units


class Dropouts(TypedDict, total=False):
    """Probabilities of dropping between layers and before the read-out, 0 unless given."""

    hidden: DropRate
    output: DropRate


class Read(NamedTuple):
    """What the top of the stack gives for a sequence."""

    raw: Tensor
    """(T, B, H)."""
    state: State


class SequenceModel(Model):
    """A recurrent network over vectors.

    The task says where it is asked: `read_out(model(x).raw)` answers at every step, `read_out(model(x).raw[-1])` at
    the last.

    Args:
        input_size: I.
        output_size: numbers that the read-out gives.
        hidden_sizes: H of each layer, from the bottom.
        layer: spec of the layers, {name: ..., its settings}, or a list with one for each.
        output_init: of the read-out's weight: "uniform" (1 / sqrt(H), as torch does) or "xavier" (Glorot normal); its
            bias is uniform in both.
        dropout: probabilities in [0, 1): `hidden` between layers, `output` before the read-out.

    Example:
        >>> import torch
        >>> model = SequenceModel(3, 2, [5], {"name": "elman", "nonlinearity": "modrelu"})
        >>> features = model(torch.zeros(7, 4, 3))
        >>> features.raw.shape, model.read_out(features.raw[-1]).shape
        (torch.Size([7, 4, 5]), torch.Size([4, 2]))
    """

    reads = "vectors"

    @checked
    def __init__(
        self,
        input_size: Size,
        output_size: Size,
        hidden_sizes: Sizes,
        layer: LayerSpecs = "lstm",
        output_init: Literal["uniform", "xavier"] = "uniform",
        dropout: Dropouts | None = None,
    ) -> None:
        super().__init__()
        dropout = {} if dropout is None else dropout
        layers = layers_between(layer, [input_size, *hidden_sizes])
        self.layers = Stack(layers, dropout.get("hidden", 0.0))
        self.output = nn.Linear(hidden_sizes[-1], output_size)
        self.output_dropout = dropout.get("output", 0.0)
        if output_init == "xavier":
            nn.init.xavier_normal_(self.output.weight)

    @property
    def input_size(self) -> int:
        """I."""
        return self.layers.members[0].input_size

    @property
    def output_size(self) -> int:
        """Numbers that the read-out gives."""
        return len(self.output.weight)

    def initial_state(self, batch: int) -> State:
        """State before the first step of `batch` sequences."""
        return self.layers.initial_state(batch)

    def forward(self, x: Tensor, state: State = None) -> Read:
        """x (T, B, I) -> the top of the stack."""
        return Read(*self.layers(x, state))

    def read_out(self, h: Tensor) -> Tensor:
        """Hidden vectors (..., H) -> answers (..., output_size)."""
        answer: Tensor = self.output(drop(h, self.output_dropout, self.training, False))
        return answer

    def penalty(self) -> Tensor | float:
        """The layers' own regularisers."""
        return sum((layer.penalty() for layer in self.layers.members), 0.0)

    def answers(self, output: Read) -> Iterator[Tensor]:
        """What is read out at every step, (T, B, output_size)."""
        yield self.read_out(output.raw)

    def units(self) -> list[Units]:
        """Hidden units of every layer, from the bottom, each with all its readers."""
        last = self.layers.members[-1]
        top = last.as_units(f"layer {len(self.layers) - 1}", (Slice(self.output, "weight", 1),))
        return [*self.layers.units(), top]

    def resized(self, settings: Mapping[str, Json]) -> dict[str, Json]:
        """The constructor's settings, as a recipe has them, with the sizes that the weights have now."""
        layers = self.layers.members
        sizes = {"hidden_sizes": [layer.hidden_size for layer in layers]}
        return {**settings, **sizes, **layer_specs(settings.get("layer", "lstm"), layers)}
