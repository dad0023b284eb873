"""Weights of a layer of which some do not exist: multiplied, and their gradients taken, at the others only.

A parameter is a dense tensor with zeros, whose values are gathered once for a window and whose gradient is written
into zeros; or, while a sparsifier stores it so, the existing values alone (see `HoldsPlaces`). Evaluation multiplies
dense matrices, which is right whatever wrote the weights.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.errors import InputError
from sparsernn.core.precision import rounding
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels import blocks_triton
from sparsernn.kernels.sparse_layout import MOST, Layout
from sparsernn.kernels.sparse_products import SparseFactor, value_gradient
from sparsernn.nn.drive.held_places import HoldsPlaces
from sparsernn.nn.drive.product_choice import Window, both_ways, sparse_pays
from sparsernn.nn.drive.step_product import Product
from sparsernn.nn.dropout import drop_numbers
from sparsernn.structure.weight_places import ProductChoice, WeightPlaces

ProductName = Literal["auto", "dense", "sparse"]


class SparseWeight:
    """One weight during one window.

    Args:
        layout: where it exists.
        places: the record that the layout was made from.
        weight: what is multiplied with, after weight drop: (R, C), or the existing values (layout.size,).
        scale: of the weight against the parameter (weight drop); None for 1. Only a wanted dense gradient needs it.
    """

    def __init__(
        self, layout: Layout, places: WeightPlaces, weight: Tensor, scale: Tensor | None = None
    ) -> None:
        self.layout, self.places, self.scale = layout, places, scale if places.wanted else None
        self.alone = weight.dim() == 1
        self.factor = SparseFactor(layout, weight if self.alone else layout.take(weight))

    def gradient(self, x: Tensor, d_y: Tensor) -> Tensor:
        """That of the weight, in its shape, 0 where it does not exist; from x (N, C) and that of x W^T, (N, R)."""
        if not self.places.wanted:
            self.places.partial = True
            return self._shaped(value_gradient(self.layout, x, d_y))
        dense = torch.mm(d_y.t(), x)
        made = self._shaped(self.layout.take(dense))
        self.places.leave(dense if self.scale is None else dense.mul_(self.scale))
        return made

    def _shaped(self, values: Tensor) -> Tensor:
        return values if self.alone else self.layout.put(values)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b under autograd: x (..., C) -> (..., R)."""
        made: Tensor = _Linear.apply(self, x, weight, bias)  # type: ignore[no-untyped-call]
        return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, sparse: SparseWeight, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.sparse = sparse
        ctx.save_for_backward(x)
        return sparse.factor.forward(bias, x.flatten(0, -2)).view(*x.shape[:-1], -1)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_y: Tensor) -> tuple[Tensor | None, ...]:
        (x,), sparse, needs = ctx.saved_tensors, ctx.sparse, ctx.needs_input_grad
        rows = d_y.flatten(0, -2)
        d_x = sparse.factor.back(None, rows).view_as(x) if needs[1] else None
        d_weight = sparse.gradient(x.flatten(0, -2), rows) if needs[2] else None
        return None, d_x, d_weight, rows.sum(0) if needs[3] else None


class SparseForth(Product):
    """base + a W^T."""

    def __init__(self, sparse: SparseWeight) -> None:
        self.factor = sparse.factor

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        return self.factor.forward(base, a)


class SparseBack(SparseForth):
    """base + a W."""

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        return self.factor.back(base, a)


class SparseProducts(HoldsPlaces):
    """What a layer or cell with the setting `product` adds to its module.

    `product` is "dense"; "sparse": weights that a sparsifier masks are multiplied at their places in training, on the
    CPU and, where all are in blocks, by Triton on a CUDA device; or "auto": as the faster way is, measured once, at
    the first window, and where the density changes on the way, once more when it is what it stays.

    Attributes:
        product: as given.
        reads_sparsely: whether a cell's latest inputs were read with sparse products.
    """

    product: ProductName = "dense"
    training: bool
    get_submodule: Callable[[str], nn.Module]
    input_weights: ClassVar[tuple[str, ...]] = ("weight_ih",)
    """Names of the weights that meet all steps of a window at once; the others meet one after the other."""

    def _begin_products(self, product: ProductName) -> None:
        self.product = product
        self._places: dict[str, WeightPlaces] = {}
        self.own_places = {}
        self._layouts: dict[str, tuple[int, Layout]] = {}
        self.reads_sparsely = False
        self._seconds: tuple[float, float] | None = None
        self._settled = 0
        self._chosen: bool | None = None if product == "auto" else product == "sparse"
        self._offered = True

    def take_places(self, name: str, places: WeightPlaces) -> None:
        """See `sparsernn.structure.weight_places.TakesPlaces`."""
        if places.needs == "always" and self.product == "sparse":
            raise InputError(
                f"product: sparse computes no gradients of weights that do not exist, but the rules for '{name}' "
                "look at them in every step; use product: dense or auto, or let growth by gradient update per step."
            )
        fits = places.mask.dim() == 2 and max(places.mask.shape) < MOST
        if self.product != "dense" and places.needs != "always" and fits:
            self._places[name] = places
            if self._chosen:
                self._offer(name)

    def _offer(self, name: str) -> None:
        """Say that the existing values of a parameter of this module's own would do."""
        places, (path, _, own) = self._places[name], name.rpartition(".")
        owner = self.get_submodule(path)
        if isinstance(owner, HoldsPlaces):
            owner.own_places[own] = places
            places.offer(owner, Layout)

    def multiplies_sparsely(self, x: Tensor) -> bool:
        """Whether a window x (T, B, I) is read with sparse products; decides it where that is left to measurement."""
        now = self._places and self.training and torch.is_grad_enabled() and not is_exporting()
        if not (now and x.numel() and all(places.told for places in self._places.values())):
            return False
        self._offered = rounding(x.device) is None and self._has_products(x.device)
        if not self._offered:
            return False
        settled = sum(places.settled for places in self._places.values())
        if self._chosen is None or (self.product == "auto" and settled != self._settled):
            self._settled = settled
            self._choose(x.shape[0], x.shape[1], x.device)
        return bool(self._chosen)

    def _has_products(self, device: torch.device) -> bool:
        """The CPU has them for all weights, a CUDA device for those in blocks, where Triton is installed."""
        if device.type == "cpu":
            return True
        return blocks_triton.offered(device) and all(self._layout(name).blocks for name in self._places)

    def _choose(self, steps: int, batch: int, device: torch.device) -> None:
        layouts = {name: self._layout(name) for name in self._places}
        windows = [Window(w, name in self.input_weights, steps, batch, device) for name, w in layouts.items()]
        self._seconds = both_ways(windows)
        self._chosen = sparse_pays(*self._seconds)
        for name in self._places if self._chosen else ():
            self._offer(name)

    def product_choice(self) -> ProductChoice | None:
        """See `sparsernn.structure.weight_places.ChoosesProducts`."""
        chosen = self._chosen if self._offered else False
        return ProductChoice(self.product, chosen, self._seconds) if self._places else None

    def sparse_weight(self, name: str, weight: Tensor, scale: Tensor | None = None) -> SparseWeight | None:
        """The weight as it is now; None if it is not masked. See `SparseWeight`."""
        places = self._places.get(name)
        if places is None or (places.stored is None and places.mask.shape != weight.shape):
            return None
        return SparseWeight(self._layout(name), places, weight, scale)

    def dropped(self, name: str, p: float, factor: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """What `held` gives after weight drop, and what the whole matrix was multiplied by; None where that was 1.

        The draws are those for the dense matrix, whatever is stored. `factor` multiplies what is kept.
        """
        held, stored = self.held(name), self.stored(name)
        if not (self.training and p > 0.0):
            return held, None
        scale = drop_numbers(held.new_ones(tuple(self.shape_of(name))), p)
        scale = scale if factor == 1.0 else scale * factor
        return held * (scale if stored is None else stored.take(scale)), scale

    def read_inputs(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (T, B, I) -> x W_ih^T + b for all steps, in a cell; the window's recurrent products follow suit."""
        made = self.read_sparsely(x, bias)
        return functional.linear(x, self.__getattr__("weight_ih"), bias) if made is None else made

    def read_sparsely(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """The same, or None where it is not for sparse products."""
        self.reads_sparsely = self.multiplies_sparsely(x)
        weight = self.held("weight_ih")
        sparse = self.sparse_weight("weight_ih", weight) if self.reads_sparsely else None
        return None if sparse is None else sparse.linear(x, weight, bias)

    def recurrent_weight(self, name: str) -> tuple[Tensor, SparseWeight | None]:
        """A weight for a stage, and its `sparse_weight` where the window's inputs were read with sparse products."""
        held = self.held(name)
        sparse = self.sparse_weight(name, held) if self.reads_sparsely else None
        return (held if sparse is not None else self.__getattr__(name)), sparse

    def _layout(self, name: str) -> Layout:
        places = self._places[name]
        if isinstance(places.stored, Layout):
            return places.stored
        version, layout = self._layouts.get(name, (-1, None))
        if layout is None or version != places.version:
            layout = Layout(places.mask)
            self._layouts[name] = (places.version, layout)
        return layout
