"""Whether products with existing weights only are the faster way here: measured, once for each shape and density."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.core.devices import CPU, moved
from sparsernn.core.peers import common_answer
from sparsernn.core.streams import stream
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.kernels.sparse_products import SparseFactor, value_gradient
from sparsernn.nn.drive.loop_choice import MARGIN, least_seconds
from sparsernn.nn.drive.step_product import recurrent_product

_measured: dict[tuple[object, ...], tuple[float, float]] = {}


class Window(NamedTuple):
    """A weight in one window of training.

    Attributes:
        layout: where it exists.
        at_once: whether it meets all steps at once (inputs) or one after the other (recurrence).
        steps: T.
        batch: B.
        device: where it is multiplied.
    """

    layout: Layout
    at_once: bool
    steps: int
    batch: int
    device: torch.device = CPU


def sparse_pays(dense: float, sparse: float) -> bool:
    """Whether sparse products take clearly less time than dense ones.

    Args:
        dense: seconds.
        sparse: seconds.

    Example:
        >>> sparse_pays(1.0, 0.5), sparse_pays(1.0, 0.95)
        (True, False)
    """
    return sparse < MARGIN * dense


def both_ways(windows: Sequence[Window]) -> tuple[float, float]:
    """Seconds for all these weights together: dense, sparse.

    Where several processes train, they are those of one of them for all: weights that one process kept without zeros
    and another with them would have gradients of different shapes.
    """
    times = [seconds(window) for window in windows]
    own = sum(dense for dense, _ in times), sum(sparse for _, sparse in times)
    weights = [(*w.layout.shape, round(w.layout.density, 2), w.at_once) for w in windows]
    dense, sparse = common_answer(("products", *weights), "{!r} {!r}".format(*own)).split()
    return float(dense), float(sparse)


def seconds(window: Window) -> tuple[float, float]:
    """Seconds for forward, back and gradient of a window: dense, sparse. Measured once in a process."""
    layout, steps, batch = window.layout, window.steps, window.batch
    key = (layout.shape, layout.blocks, round(layout.density, 2), *window[1:], torch.get_num_threads())
    if key not in _measured:
        random = stream("autotune")
        rows, columns = layout.shape
        weight, x, y = (
            moved(torch.randn(shape, generator=random), window.device)
            for shape in ((rows, columns), (steps * batch, columns), (steps * batch, rows))
        )
        with torch.no_grad():
            _measured[key] = (
                least_seconds(lambda: _dense(window, weight, x, y), window.device),
                least_seconds(lambda: _sparse(window, weight, x, y), window.device),
            )
    return _measured[key]


def _dense(window: Window, weight: Tensor, x: Tensor, y: Tensor) -> None:
    if window.at_once:
        torch.mm(x, weight.t())
        torch.mm(y, weight)
    else:
        forth = recurrent_product(weight, window.batch, window.steps)
        back = recurrent_product(weight.t(), window.batch, window.steps)
        for a, d in zip(*(torch.split(t, window.batch) for t in (x, y)), strict=True):
            forth(d.clone(), a)
            back(a.clone(), d)
    torch.mm(y.t(), x)


def _sparse(window: Window, weight: Tensor, x: Tensor, y: Tensor) -> None:
    factor = SparseFactor(window.layout, window.layout.take(weight))
    if window.at_once:
        factor.forward(None, x)
        factor.back(None, y)
    else:
        for a, d in zip(*(torch.split(t, window.batch) for t in (x, y)), strict=True):
            factor.forward(d.clone(), a)
            factor.back(a.clone(), d)
    window.layout.put(value_gradient(window.layout, x, y))
