"""The product of a recurrent step, chosen by its size.

The same small matrix product is taken at every time step with the same weight. Wide layers gain from a compiled
product that reads the weight as it lies in memory, or, where there is none, from oneDNN's packed layout, into which
the weight is brought once per window; narrow ones want the call with the least overhead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sparsernn.core.onednn import onednn
from sparsernn.kernels import product_kernel

COMPILED_FROM = 300_000
"""Weights from which the compiled product pays, measured on an AMD EPYC (AVX2) with torch 2.13 and weights that take
turns, 1 thread and 2: 800 x 400 with 20 rows takes 170 and 90 us against MKL's 270 and 190 and oneDNN's 260 and 150,
1660 x 830 takes 840 and 550 against 1100 and 1250, and 1040 and 630; 400 x 200 is a draw."""
COMPILED_ROWS = (2, 48)
"""Fewest and most rows for which it pays: one row of 800 x 400 takes 74 us against MKL's 64, and 64 rows of 4830 x
1150 take 9.2 ms on 2 threads against oneDNN's 8.6."""
TURNED_USES = 8
"""Uses from which it pays for a transposed view, which is copied first: 1660 x 830 in 1.1 ms on one thread."""
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
        self.plain: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        self.adding: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        product: Tensor
        if base.dim() == 1:
            product = self.plain(a, self.weight, base, "none", [], "")
        else:
            product = self.adding(a, base, self.weight, None, "add")
        return product


class CompiledProduct(Product):
    """This library's own product (float32, CPU)."""

    def __init__(self, weight: Tensor) -> None:
        self.factor = product_kernel.Factor(weight)

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        return self.factor(base, a)


class RoundedProduct(Product):
    """With operands of 16 bits; sums and what comes of them are float32.

    Args:
        weight: (G, H); rounded once.
        kind: what to.

    Example:
        >>> RoundedProduct(torch.full((1, 1), 1.001), torch.bfloat16)(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[1.]])
    """

    def __init__(self, weight: Tensor, kind: torch.dtype) -> None:
        self.kind, self.transposed = kind, weight.t().to(kind)

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        product = torch.mm(a.to(self.kind), self.transposed)
        return base + product if base.dim() == 1 else base.add_(product)


class PartedProduct(Product):
    """Several products of one size at once, of rows that lie one part after the other.

    Args:
        weight: (N, G, H); the first of N equal parts of the rows meets the first of them.

    Example:
        >>> product = PartedProduct(torch.tensor([[[1.0]], [[10.0]]]))
        >>> product(torch.zeros(4, 1), torch.ones(4, 1)).flatten().tolist()
        [1.0, 1.0, 10.0, 10.0]
    """

    def __init__(self, weight: Tensor) -> None:
        self.transposed = weight.mT

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`."""
        parts = in_parts(a, len(self.transposed))
        if base.dim() == 1:
            return torch.baddbmm(base, parts, self.transposed).flatten(0, 1)
        in_parts(base, len(parts)).baddbmm_(parts, self.transposed)
        return base


def in_parts(rows: Tensor, count: int) -> Tensor:
    """(N B, F) -> (N, B, F).

    >>> in_parts(torch.zeros(6, 2), 3).shape
    torch.Size([3, 2, 2])
    """
    return rows.view(count, len(rows) // count, rows.shape[1])


class OntoFirst(Product):
    """Another product, onto the first columns of a base that has more.

    Args:
        product: the other one.
        count: G, the columns that it gives.

    Example:
        >>> OntoFirst(PlainProduct(torch.ones(1, 2)), 1)(torch.zeros(1, 3), torch.ones(1, 2))
        tensor([[2., 0., 0.]])
    """

    def __init__(self, product: Product, count: int) -> None:
        self.product, self.count = product, count

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`; base (B, G or more) is overwritten."""
        first = base[:, : self.count]
        first.copy_(self.product(first.contiguous(), a))
        return base


class FromFirst(OntoFirst):
    """Another product, of the first columns of what it meets."""

    def __call__(self, base: Tensor, a: Tensor) -> Tensor:
        """See `Product`; a (B, G or more)."""
        return self.product(base, a[:, : self.count].contiguous())


def recurrent_product(weight: Tensor, rows: int, uses: int) -> Product:
    """The faster product for a weight that meets `rows` rows `uses` times.

    The choice depends on sizes only, so that a repeated run takes its sums in the same order.

    Args:
        weight: (G, H); taken as it is now. Or (N, G, H), one for each of N equal parts of the rows.
        rows: B of every operand.
        uses: number of products to come.

    Example:
        >>> product = recurrent_product(torch.ones(2, 3), rows=1, uses=5)
        >>> product(torch.tensor([1.0, 2.0]), torch.ones(1, 3))
        tensor([[4., 5.]])
    """
    if weight.dim() > 2:
        return PartedProduct(weight)
    if compiling_pays(weight, rows, uses):
        return CompiledProduct(weight)
    if packing_pays(weight, rows, uses):
        return PackedProduct(weight, rows)
    return PlainProduct(weight)


def compiling_pays(weight: Tensor, rows: int, uses: int) -> bool:
    """Whether the compiled product is available for this weight, and faster."""
    fits = weight.numel() >= COMPILED_FROM and COMPILED_ROWS[0] <= rows <= COMPILED_ROWS[1]
    return fits and (uses >= TURNED_USES or weight.is_contiguous()) and product_kernel.takes(weight)


def packing_pays(weight: Tensor, rows: int, uses: int) -> bool:
    """Whether the packed product is available for this weight, and faster."""
    available = weight.device.type == "cpu" and weight.dtype == torch.float32 and onednn.is_available()
    large = weight.numel() >= PACKED_FROM and rows <= PACKED_UP_TO and uses >= PACKED_USES
    return bool(available and large and onednn.enabled)
