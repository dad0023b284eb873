"""The product of a recurrent step, chosen by its size.

The same small matrix product is taken at every time step with the same weight. Wide layers gain from oneDNN's packed
layout, into which the weight is brought once per window; narrow ones want the call with the least overhead.
"""

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor

PACKED_FROM = 400_000
"""Weights from which packing pays, measured at batch 20 on 2 threads of an AMD EPYC (AVX2) with torch 2.13: 400 x
1600 takes 240 us packed against 332, 200 x 400 takes 83 against 54."""
PACKED_UP_TO = 64
"""Rows up to which packing pays: 128 rows of 1024 -> 1024 take 2.2 ms packed against 1.7."""
PACKED_USES = 8
"""Uses from which packing pays; bringing a weight into the packed layout costs about two products."""


class Product(ABC):
    """base + a W^T, for one weight W (G, H) and many a (B, H)."""

    @abstractmethod
    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """(B, G); a `base` of (B, G) may be overwritten with the result, a bias (G,) is not."""


class PlainProduct(Product):
    """The product of the default BLAS."""

    def __init__(self, weight: Tensor) -> None:
        self.transposed = weight.t()

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        if base.dim() == 1:
            return torch.addmm(base, a, self.transposed)
        return base.addmm_(a, self.transposed)


class PackedProduct(Product):
    """oneDNN's product with a weight in its own layout (float32, CPU)."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.plain: Any = torch.ops.mkldnn._linear_pointwise.default
        self.adding: Any = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        product: Tensor
        if base.dim() == 1:
            product = self.plain(a, self.weight, base, "none", [], "")
        else:
            product = self.adding(a, base, self.weight, None, "add")
        return product


def recurrent_product(weight: Tensor, rows: int, uses: int) -> Product:
    """The faster product for a weight that meets `rows` rows `uses` times.

    The choice depends on sizes only, so that a repeated run takes its sums in the same order.

    Args:
        weight: (G, H); taken as it is now.
        rows: B of every operand.
        uses: number of products to come.

    Example:
        >>> product = recurrent_product(torch.ones(2, 3), rows=1, uses=5)
        >>> product(torch.tensor([1.0, 2.0]), torch.ones(1, 3))
        tensor([[4., 5.]])
    """
    if packing_pays(weight, rows, uses):
        return PackedProduct(weight, rows)
    return PlainProduct(weight)


def packing_pays(weight: Tensor, rows: int, uses: int) -> bool:
    """Whether the packed product is available for this weight, and faster."""
    mkldnn = cast(Any, torch.backends.mkldnn)
    available = weight.device.type == "cpu" and weight.dtype == torch.float32 and mkldnn.is_available()
    large = weight.numel() >= PACKED_FROM and rows <= PACKED_UP_TO and uses >= PACKED_USES
    return bool(available and large and mkldnn.enabled)
