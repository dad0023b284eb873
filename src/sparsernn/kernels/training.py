"""Elementwise passes over weights in training, several steps in one reading of the memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.kernels.library import Library, native

SMALL = 32768
"""Elements below which one thread is faster than waking others (a pass over 128 KB takes 10 microseconds)."""


class Rates(NamedTuple):
    """The numbers of a step, in the order in which the compiled passes take them."""

    lr: float
    weight_decay: float
    scale: float


def masked_sgd_(
    w: Tensor,
    g: Tensor,
    mask: Tensor | None = None,
    *,
    lr: float,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    total: Tensor | None = None,
) -> Tensor:
    """One step of SGD, projected onto a mask, and optionally summed: all in one pass.

        w <- (w - lr * (scale * g + weight_decay * w)) where mask, else 0;   total <- total + w

    Args:
        w: weights, changed in place.
        g: gradient of w's shape.
        mask: bool (or uint8 0/1) of w's shape, True where a weight exists; None: everywhere.
        lr: learning rate.
        weight_decay: L2 coefficient.
        scale: factor of the gradient, such as the coefficient of gradient clipping; g itself is left alone.
        total: running sum of w's shape, for averages; changed in place.

    Returns:
        w.

    The compiled pass needs float32 tensors that are contiguous and on the CPU; anything else takes the twin.

    Example:
        >>> w = torch.tensor([1.0, 2.0])
        >>> masked_sgd_(w, torch.tensor([1.0, 1.0]), torch.tensor([True, False]), lr=0.5)
        tensor([0.5000, 0.0000])
    """
    given = [t for t in (w, g, total) if t is not None]
    found = native(*given, *([] if mask is None else [mask])) if _single(given) and _bytes(mask) else None
    with torch.no_grad():
        if found is None or not _alike(w, g, mask, total):
            return _masked_sgd_twin(w, g, mask, total, Rates(lr, weight_decay, scale))
        _masked_sgd_native(found, w, g, mask, total, Rates(lr, weight_decay, scale))
        torch.autograd.graph.increment_version(given[::2] if total is not None else [w])
    return w


def mask_(w: Tensor, mask: Tensor) -> Tensor:
    """Sets w to 0 where the mask is False, in place; returns w.

    Args:
        w: any floating tensor.
        mask: bool (or uint8 0/1) of w's shape.

    Example:
        >>> mask_(torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
        tensor([0., 2.])
    """
    found = native(w, mask) if _single([w]) and _bytes(mask) and _alike(w, mask) else None
    with torch.no_grad():
        if found is None:
            return w.masked_fill_(mask.logical_not(), 0.0)
        found.mask(w.data_ptr(), mask.data_ptr(), w.numel(), _threads(found, w))
        torch.autograd.graph.increment_version([w])
    return w


def _single(tensors: list[Tensor]) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


def _bytes(mask: Tensor | None) -> bool:
    return mask is None or mask.dtype in (torch.bool, torch.uint8)


def _alike(w: Tensor, *others: Tensor | None) -> bool:
    return all(t is None or t.shape == w.shape for t in others)


def _threads(found: Library, w: Tensor) -> int:
    return 1 if w.numel() < SMALL else found.threads()


def _masked_sgd_native(
    found: Library,
    w: Tensor,
    g: Tensor,
    mask: Tensor | None,
    total: Tensor | None,
    rates: Rates,
) -> None:
    pointers = [t.data_ptr() for t in (w, g, mask, total) if t is not None]
    name = ("sgd" if mask is None else "masked_sgd") + ("" if total is None else "_sum")
    getattr(found, name)(*pointers, *rates, w.numel(), _threads(found, w))


def _masked_sgd_twin(w: Tensor, g: Tensor, mask: Tensor | None, total: Tensor | None, rates: Rates) -> Tensor:
    w.add_((g * rates.scale).add_(w, alpha=rates.weight_decay), alpha=-rates.lr)
    if mask is not None:
        w.masked_fill_(mask.logical_not(), 0.0)
    if total is not None:
        total.add_(w)
    return w
