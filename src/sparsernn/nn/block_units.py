"""Which slices of a block LSTM's parameters make up a unit, and which units can be removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsernn.errors import InputError
from sparsernn.gates import stacked
from sparsernn.nn.block_lists import Components, arrangement
from sparsernn.units import Slice

if TYPE_CHECKING:
    from sparsernn.nn.block_lstm import BlockLSTM

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def components(layer: BlockLSTM) -> Iterator[tuple[str, int, range]]:
    """Suffix, number and hidden units of every component, the units counted through all of them."""
    first = 0
    for suffix in layer.suffixes:
        for n, span in enumerate(layer.hidden_spans(suffix)):
            yield suffix, n, range(first, first + len(span))
            first += len(span)


def outputs(layer: BlockLSTM) -> tuple[Slice, ...]:
    """A row in every gate of one component's weights and biases, and a column of its recurrent weight."""
    slices = []
    for suffix, n, units in components(layer):
        rows = tuple(block.start for block in stacked(layer.gates, len(units)))
        for name in WEIGHTS:
            in_norm = name.startswith("weight")
            slices.append(Slice(layer, f"{name}_{n}{suffix}", 0, rows, in_norm=in_norm, span=units))
        slices.append(Slice(layer, f"weight_hh_{n}{suffix}", 1, span=units))
    return tuple(slices)


def silence(layer: BlockLSTM) -> tuple[Slice, ...]:
    """The rows of gate g of one component with their biases: nothing is ever written into the cell."""
    g = layer.gates.index("g")
    return tuple(
        Slice(layer, f"{name}_{n}{suffix}", 0, (g * len(units),), span=units)
        for suffix, n, units in components(layer)
        for name in WEIGHTS
    )


def inputs(layer: BlockLSTM) -> tuple[Slice, ...]:
    """The columns of the input weights whose windows hold the feature."""
    return tuple(
        Slice(
            layer,
            f"weight_ih_{n}{suffix}",
            1,
            span=layer.windows[n],
            removed=partial(_narrow, layer, n, suffix),
        )
        for suffix, n, _ in components(layer)
    )


def removable(layer: BlockLSTM, dead: Tensor) -> Tensor:
    """Of the dead units those that can go together: not all of a component, and equally many of both directions."""
    chosen = torch.zeros_like(dead)
    for n in range(len(layer.windows)):
        own = [slice(units.start, units.stop) for _, number, units in components(layer) if number == n]
        most = min(min(int(dead[part].sum()), part.stop - part.start - 1) for part in own)
        for part in own:
            chosen[part] = dead[part] & (dead[part].cumsum(0) <= most)
    return chosen


def resized(layer: BlockLSTM, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec that gives the components as they are now: as it was, or else with a list of them."""
    widths = tuple(len(span) for span in layer.hidden_spans())
    if _arranged(layer, sum(widths)) == (tuple(layer.windows), widths):
        return dict(spec)
    listed = [[n, window.start, window.stop] for n, window in zip(widths, layer.windows, strict=True)]
    return {key: value for key, value in spec.items() if key not in ("density", "reduce")} | {
        "blocks": listed
    }


def _arranged(layer: BlockLSTM, hidden: int) -> Components | None:
    """What the layer's own settings make of its sizes."""
    try:
        return arrangement(layer.input_size, hidden, *layer.asked)
    except InputError:
        return None


def _narrow(layer: BlockLSTM, n: int, suffix: str, kept: Tensor) -> None:
    """Features were removed: the window keeps those of its own that stay."""
    if suffix == layer.suffixes[0]:
        window = layer.windows[n]
        before = int(kept[: window.start].sum())
        layer.windows[n] = range(before, before + int(kept[window.start : window.stop].sum()))
