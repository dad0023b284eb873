"""What competes with what: the pools in which rules choose.

A pool is a tuple of `Piece`s, each of them some rows of one grid. Pruning and growing have pools of their
own: the gate scope "even", for example, prunes a tensor as one pool and grows in one pool for each gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor


class Piece(NamedTuple):
    """Rows `start` (included) to `stop` (excluded) of the grid of tensor number `tensor`."""

    tensor: int
    start: int
    stop: int

    def of(self, grids: Sequence[Tensor]) -> Tensor:
        """The view of these rows."""
        return grids[self.tensor][self.start : self.stop]


Pool = tuple[Piece, ...]


def tensor_pools(tensors: Sequence[MaskedTensor]) -> list[Pool]:
    """Every tensor on its own."""
    return [(Piece(i, 0, t.grid_shape[0]),) for i, t in enumerate(tensors)]


def cell_pools(tensors: Sequence[MaskedTensor], cells: Sequence[Sequence[str]]) -> list[Pool]:
    """The tensors of one recurrent layer together, all others on their own.

    Args:
        tensors: the masked tensors.
        cells: groups of parameter names, one for each layer.
    """
    group_of = {name: number for number, names in enumerate(cells) for name in names}
    groups: dict[object, Pool] = {}
    for tensor, pool in zip(tensors, tensor_pools(tensors), strict=True):
        key = group_of.get(tensor.name, tensor.name)
        groups[key] = groups.get(key, ()) + pool
    return list(groups.values())


def gate_pools(number: int, tensor: MaskedTensor) -> list[Pool]:
    """One pool for each gate of a tensor; the whole tensor if it has no gates.

    Raises:
        InputError: a block that straddles the border of two gates.
    """
    height = tensor.block[0]
    pools: dict[str, Pool] = {}
    for gate in tensor.gates:
        if gate.start % height or gate.stop % height:
            raise InputError(
                f"blocks of {height} rows straddle the gates of '{tensor.name}' "
                f"(rows {gate.start} to {gate.stop}); "
                "use a block height that divides the gate, or gate_scope=pooled."
            )
        piece = Piece(number, gate.start // height, gate.stop // height)
        pools[gate.name] = (*pools.get(gate.name, ()), piece)
    return list(pools.values()) or [(Piece(number, 0, tensor.grid_shape[0]),)]


class Pools(NamedTuple):
    """The pools of one run.

    Attributes:
        prune: pools in which weights compete to stay.
        grow: pools that receive a budget of their own; no budget moves between them unless redistributed.
        parts: for each pool of `grow`, the pools that it divides its budget among evenly.
    """

    prune: list[Pool]
    grow: list[Pool]
    parts: list[list[Pool]]


def make_pools(
    tensors: Sequence[MaskedTensor], cells: Sequence[Sequence[str]], gate_scope: str, everything: bool
) -> Pools:
    """The pools that a gate scope asks for.

    Args:
        tensors: the masked tensors.
        cells: groups of parameter names, one for each recurrent layer.
        gate_scope: "pooled", "even", "independent" or "cell".
        everything: prune all tensors as one pool, whatever the scope.
    """
    whole = tensor_pools(tensors)
    by_gate = (
        [gate_pools(i, t) for i, t in enumerate(tensors)] if gate_scope in ("even", "independent") else []
    )
    if gate_scope == "independent":
        grow = [pool for pools in by_gate for pool in pools]
    else:
        grow = cell_pools(tensors, cells) if gate_scope == "cell" else whole
    parts = by_gate if gate_scope == "even" else [[pool] for pool in grow]
    prune = [tuple(piece for pool in whole for piece in pool)] if everything else grow
    return Pools(prune, grow, parts)
