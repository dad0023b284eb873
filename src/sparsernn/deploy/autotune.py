"""Which way of holding a weight is the fastest here, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.core.checks import check_value
from sparsernn.core.limits import OneOf
from sparsernn.core.streams import stream
from sparsernn.kernels.weight_formats import BLOCK, FORMATS, Format

ROUNDS = 5
"""Timings of each candidate; the fastest counts, because whatever else runs on the machine only adds."""

DENSE_FROM = 0.9
"""Share of stored positions from which sparse formats are not even tried: none measured won above 0.5."""


def kept_of(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Where a weight exists: its mask, or where it is not 0."""
    return weight != 0 if mask is None else mask.bool()


def candidates(weight: Tensor, mask: Tensor | None, int8: bool) -> list[str]:
    """Names of the formats worth timing for this weight; with `int8` the 8-bit ones too."""
    kept = kept_of(weight, mask)
    names = ["dense"]
    if kept.float().mean() < DENSE_FROM:
        names.append("csr")
        rows = weight.shape[0] // BLOCK * BLOCK
        blocks = kept[:rows].reshape(-1, BLOCK, weight.shape[1]).any(1).float()
        if rows and blocks.mean() < DENSE_FROM:
            names.append("block16")
    return names + [f"{name}_int8" for name in names if int8]


def fastest(held: Mapping[str, Callable[[], object]]) -> str:
    """Name of the call that takes the least time.

    The calls take turns, so that each finds in the caches about what it would find among the other weights of
    a model.
    """
    best = dict.fromkeys(held, float("inf"))
    for _ in range(ROUNDS + 1):
        for name, call in held.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return min(best, key=best.__getitem__)


def hold(weight: Tensor, mask: Tensor | None, product: str, *, int8: bool, batch: int) -> Format:
    """The weight in the format named, or in the fastest one for `batch` columns on one thread ("auto").

    Raises:
        InputError: no such format.
    """
    if product != "auto":
        check_value("product", product, Annotated[str, OneOf(("auto", *FORMATS))])
        return FORMATS[product](weight, mask)
    held = {name: FORMATS[name](weight, mask) for name in candidates(weight, mask, int8)}
    x = torch.randn(weight.shape[1], batch, generator=stream("autotune"))
    return held[fastest({name: partial(form.multiply, x, 1) for name, form in held.items()})]
