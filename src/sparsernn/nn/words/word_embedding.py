"""Words to vectors, with whole word types dropped in training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.kernels.row_layout import RowLayout
from sparsernn.kernels.sparse_layout import MOST, Layout
from sparsernn.nn.drive.held_places import HoldsPlaces
from sparsernn.nn.drive.sparse_weight import ProductName
from sparsernn.nn.dropout import drop_rows
from sparsernn.structure.units import Slice
from sparsernn.structure.weight_places import WeightPlaces


class _Lookup(torch.autograd.Function):
    """Vectors of words out of the existing values of a table, each word's row made once."""

    @staticmethod
    def forward(
        ctx: Context,
        places: WeightPlaces,
        layout: RowLayout | Layout,
        words: Tensor,
        values: Tensor,
        scale: Tensor | None,
    ) -> Tensor:
        types, where = torch.unique(words, return_inverse=True)
        ctx.rows, ctx.types, ctx.scale = layout.rows(types), types, scale
        ctx.places, ctx.layout, ctx.where = places, layout, where
        matrix: Tensor = ctx.rows.matrix(values)
        return functional.embedding(where, matrix if scale is None else matrix * scale[types])

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_vectors: Tensor) -> tuple[Tensor | None, ...]:
        width = ctx.layout.shape[1]
        matrix = d_vectors.new_zeros(ctx.rows.shape)
        matrix.index_add_(0, ctx.where.flatten(), d_vectors.reshape(-1, width))
        matrix = matrix if ctx.scale is None else matrix * ctx.scale[ctx.types]
        if ctx.places.wanted:
            ctx.places.leave(matrix.new_zeros(ctx.layout.shape).index_copy_(0, ctx.types, matrix))
        ctx.places.partial = not ctx.places.wanted
        return None, None, None, ctx.rows.back(matrix, ctx.layout.size), None


class Embedding(HoldsPlaces, nn.Module):
    """A table of word vectors.

    Args:
        vocabulary_size: V.
        embedding_size: E.
        dropout: probability in [0, 1) that a word type is dropped for the whole window; kept rows are scaled by
            1 / (1 - dropout).
        product: "sparse" or "auto": where a run stores masked weights without zeros, those of the table too, and
            their gradients; "dense": never. A table that a head decodes with is stored so if that head, too,
            multiplies with existing weights.

    Parameters: `weight` (V, E), initialised U(-0.1, 0.1).

    Example:
        >>> Embedding(10, 4)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])

    Source of the dropout: Y. Gal and Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", 2016, arXiv:1512.05287.
    """

    trusts_order = False
    """Whether the order of words is taken for that of their frequencies."""

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        embedding_size: Size,
        dropout: DropRate = 0.0,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self.dropout, self.product = dropout, product
        self.own_places: dict[str, WeightPlaces] = {}
        self.weight = nn.Parameter(torch.empty(vocabulary_size, embedding_size).uniform_(-0.1, 0.1))

    def forward(self, words: Tensor) -> Tensor:
        """words (T, B) int64 -> vectors (T, B, E)."""
        layout = self.stored("weight")
        if isinstance(layout, RowLayout | Layout):
            held, (rows, _) = self.held("weight"), layout.shape
            scale = drop_rows(held.new_ones(rows, 1), self.dropout, self.training) if self.dropout else None
            vectors: Tensor = _Lookup.apply(self.own_places["weight"], layout, words, held, scale)  # type: ignore[no-untyped-call]
            return vectors
        return functional.embedding(words, drop_rows(self.weight, self.dropout, self.training))

    def take_places(self, name: str, places: WeightPlaces) -> None:
        """See `sparsernn.structure.weight_places.TakesPlaces`."""
        if self.product == "sparse" and places.needs == "always":
            raise InputError(
                f"product: sparse is not for the embedding's '{name}', because its rules look at all gradients in "
                "every step; use product: dense or auto."
            )
        if self.product != "dense" and places.needs != "always":
            self.own_places[name] = places
            places.offer(self, *((RowLayout, Layout) if max(places.mask.shape) < MOST else (RowLayout,)))

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.shape_of("weight")[0]

    @property
    def decoder(self) -> nn.Parameter:
        """What a tied head decodes with."""
        return self.weight

    def outputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the table."""
        return (Slice(self, "weight", 1),)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """The table's spec with the settings that another width has changed: none."""
        return dict(spec)
