"""Graphs of whole sequences whose products have weights of 8 bits, by operators of onnxruntime's own.

Of the forms that were measured (docs/export.md) these are the fastest: an LSTM that rounds as it goes, and products
that round all of their input with one factor. Other recurrences are a Scan of such products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sparsernn.core.plain import Json
from sparsernn.deploy.graphs.onnx_graph import Graph
from sparsernn.kernels.weight_formats import to_int8

DOMAIN = "com.microsoft"
FEWEST = 16
"""Rows of a weight from which it is rounded; fewer are hardly any bytes, and no time."""


class RoundedGraph(Graph):
    """A `Graph` that rounds matrices: 255 levels and a factor per row, each stored once however often used.

    Example:
        >>> graph = RoundedGraph(18, torch.nn.Linear(3, 20))
        >>> graph.gemm("x", torch.ones(20, 3), what="w")
        'DynamicQuantizeMatMul_0'
        >>> sorted(graph.tables)
        ['w.int8', 'w.scale']
    """

    operators: ClassVar[tuple[str, ...]] = ("LSTM",)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None, what: str = "linear") -> str:
        """See `Graph`."""
        if len(weight) < FEWEST:
            return super().linear(x, weight, bias, what)
        made = self._product(x, weight, f"{what}.weight")
        return made if bias is None else self.do("Add", made, self.own_table(f"{what}.bias", bias))

    def gemm(self, x: str, weight: Tensor, added: Sequence[str] = (), what: str = "weight") -> str:
        """See `Graph`."""
        if len(weight) < FEWEST:
            return super().gemm(x, weight, added, what)
        made = self._product(x, weight, what)
        for value in added:
            made = self.do("Add", made, value)
        return made

    def rows(self, weight: Tensor, numbers: str) -> str:
        """See `Graph`; the product's table has them as columns."""
        values, scales = self._stored(weight, "rows")
        found = self.do("Cast", self.do("Gather", values, numbers, axis=1), to=1)
        turned = self.do("Transpose", found, perm=[1, 2, 0])
        return self.do(
            "Mul", turned, self.do("Unsqueeze", self.do("Gather", scales, numbers), self.numbers(-1))
        )

    def recurrence(
        self, op: str, x: str, tables: Mapping[str, Tensor], others: Sequence[str], outputs: int, **more: Json
    ) -> list[str]:
        """See `Graph`."""
        stored = [x]
        factors = []
        for name in ("W", "R"):
            rounded = [to_int8(way.detach().float().cpu()) for way in tables[name]]
            stored.append(self.own_table(name, torch.stack([values.t() for values, _ in rounded])))
            factors.append(self.own_table(f"{name}.scale", torch.stack([scale for _, scale in rounded])))
        zeros = self.own_table("zeros", torch.zeros(tables["W"].shape[:2], dtype=torch.int8))
        states = [*others, *[""] * (3 - len(others))]
        inputs = (
            *stored,
            self.own_table("B", tables["B"]),
            *states,
            "",
            factors[0],
            zeros,
            factors[1],
            zeros,
        )
        return self.several(f"DynamicQuantize{op}", *inputs, outputs=outputs, domain=DOMAIN, **more)

    def _product(self, x: str, weight: Tensor, what: str) -> str:
        return self.do("DynamicQuantizeMatMul", x, *self._stored(weight, what), domain=DOMAIN)

    def _stored(self, weight: Tensor, what: str) -> tuple[str, str]:
        """The tables of a weight (R, C): (C, R) int8, (R,) float32."""
        name = self.label(weight, what)
        names = (f"{name}.int8", f"{name}.scale")
        if names[0] not in self.tables:
            values, scale = to_int8(weight.detach().float().cpu())
            self.table(names[0], values.t().contiguous())
            self.table(names[1], scale)
        return names
