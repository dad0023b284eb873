"""Parameters that hold their existing values alone, with places for them, and read as matrices all the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.structure.weight_places import Stored, WeightPlaces


class _Whole(torch.autograd.Function):
    """The dense matrix of a parameter that holds its existing values alone."""

    @staticmethod
    def forward(ctx: Context, places: WeightPlaces, values: Tensor) -> Tensor:
        """The matrix, zeros where there is no weight."""
        assert places.stored is not None
        ctx.places, ctx.stored = places, places.stored
        return places.stored.put(values)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_matrix: Tensor) -> tuple[None, Tensor]:
        """The gradient at the existing places; all of it is left where a growth rule wants it."""
        values: Tensor = ctx.stored.take(d_matrix)
        if ctx.places.wanted:
            ctx.places.leave(d_matrix.clone())
        else:
            ctx.places.partial = True
        return None, values


class HoldsPlaces:
    """What a module adds that can do with the existing values of its parameters.

    Attributes:
        own_places: the records of those parameters.
    """

    own_places: dict[str, WeightPlaces]
    _parameters: dict[str, nn.Parameter | None]

    def __getattr__(self, name: str) -> Any:
        """A parameter that holds its existing values alone is read as the dense matrix, with its gradient."""
        found = super().__getattr__(name)  # type: ignore[misc]
        places = self.__dict__.get("own_places", {}).get(name)
        return found if places is None or places.stored is None else _Whole.apply(places, found)  # type: ignore[no-untyped-call]

    def held(self, name: str) -> Tensor:
        """What the parameter is: the dense matrix, or the existing values alone."""
        own: Tensor | None = self._parameters.get(name)
        return getattr(self, name) if own is None else own

    def shape_of(self, name: str) -> Sequence[int]:
        """Rows and columns of a weight, whatever the parameter holds."""
        stored = self.stored(name)
        return self.held(name).shape if stored is None else stored.shape

    def stored(self, name: str) -> Stored | None:
        """Where its values belong while a parameter holds those alone, else None."""
        places = self.own_places.get(name)
        return None if places is None else places.stored
