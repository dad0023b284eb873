"""Which rows of a stacked weight belong to which gate.

Recurrent layers stack the weights of all gates along the rows of one tensor. Sparsity methods share a budget
between gates and reports count inside them, so the layers say where the borders are; nobody cuts a tensor in
four by hand.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

TORCH_GATES = {
    nn.LSTM: ("i", "f", "g", "o"),
    nn.LSTMCell: ("i", "f", "g", "o"),
    nn.GRU: ("r", "z", "n"),
    nn.GRUCell: ("r", "z", "n"),
}


@dataclass(frozen=True)
class GateBlock:
    """Rows `start` (included) to `stop` (excluded) of a stacked tensor belong to the gate `name`."""

    name: str
    start: int
    stop: int


def stacked(names: tuple[str, ...], rows: int) -> tuple[GateBlock, ...]:
    """Equal blocks of `rows` rows each, in the order of `names`.

    >>> stacked(("i", "f"), 3)
    (GateBlock(name='i', start=0, stop=3), GateBlock(name='f', start=3, stop=6))
    """
    return tuple(GateBlock(name, k * rows, (k + 1) * rows) for k, name in enumerate(names))


def gate_blocks(model: nn.Module) -> dict[str, tuple[GateBlock, ...]]:
    """Full parameter name -> its gate blocks, for every 2-D parameter of `model` that has gates.

    Layers of this library answer through their method `gate_rows()`; torch's own LSTM and GRU are known here.

    Example:
        >>> [block.name for block in gate_blocks(nn.GRU(2, 3))["weight_hh_l0"]]
        ['r', 'z', 'n']
    """
    return {
        prefix + name: blocks
        for prefix, module in _modules(model)
        for name, blocks in _local_blocks(module).items()
    }


def cell_groups(model: nn.Module) -> list[tuple[str, ...]]:
    """Groups of parameter names that together form one layer's cell (input and recurrent weights).

    One group per layer and direction, in the order of the modules; a module is one cell where its parameters are not
    numbered as torch's are. Tensors without gates are in no group.

    Example:
        >>> cell_groups(nn.LSTM(2, 3, num_layers=2))
        [('weight_ih_l0', 'weight_hh_l0'), ('weight_ih_l1', 'weight_hh_l1')]
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for prefix, module in _modules(model):
        for name in _local_blocks(module):
            groups.setdefault((prefix, _layer_suffix(name)), []).append(prefix + name)
    return [tuple(names) for names in groups.values()]


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        yield (f"{path}." if path else ""), module


def _local_blocks(module: nn.Module) -> dict[str, tuple[GateBlock, ...]]:
    gate_rows = getattr(module, "gate_rows", None)
    if callable(gate_rows):
        return dict(gate_rows())
    names = TORCH_GATES.get(type(module))
    if names is None:
        return {}
    matrices = {
        n: p for n, p in module.named_parameters(recurse=False) if n.startswith(("weight_ih", "weight_hh"))
    }
    return {n: stacked(names, p.shape[0] // len(names)) for n, p in matrices.items()}


def _layer_suffix(name: str) -> str:
    """'_l0_reverse' of 'weight_ih_l0_reverse'; '' for one-layer modules."""
    found = re.search(r"_l\d+(_reverse)?$", name)
    return found.group() if found else ""
