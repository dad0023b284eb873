"""What competes with what: the pools in which rules choose.

A pool is a tuple of `Piece`s, each of them some cells of one grid, all of one area: a block never takes the place of
a larger or smaller one, so that the number of weights stays. Pruning and growing have pools of their own: the gate
scope "even", for example, prunes a tensor as one pool and grows in one pool for each gate.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.block_grid import Rectangle
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor


class Piece(NamedTuple):
    """Some cells of the grid of tensor number `tensor`."""

    tensor: int
    cells: Rectangle

    def of(self, grids: Sequence[Tensor]) -> Tensor:
        """The view of these cells."""
        at = self.cells
        return grids[self.tensor][at.start : at.stop, at.left : at.right]

    @property
    def size(self) -> int:
        """How many cells."""
        return (self.cells.stop - self.cells.start) * (self.cells.right - self.cells.left)


Pool = tuple[Piece, ...]


def tensor_pools(tensors: Sequence[MaskedTensor]) -> list[Pool]:
    """Every tensor on its own, and in it the blocks of every size."""
    return [
        tuple(Piece(i, cells) for cells in same) for i, t in enumerate(tensors) for same in t.grid.classes()
    ]


def by_area(pools: Sequence[Pool]) -> list[list[int]]:
    """The numbers of the pools of equally large cells, together: budget may move among those.

    >>> a, b = Rectangle(0, 1, 0, 1, 16), Rectangle(1, 2, 0, 1, 4)
    >>> by_area([(Piece(0, a),), (Piece(0, b),), (Piece(1, a),)])
    [[0, 2], [1]]
    """
    groups: dict[int, list[int]] = {}
    for number, pool in enumerate(pools):
        groups.setdefault(pool[0].cells.area, []).append(number)
    return list(groups.values())


def _together(pieces: Iterable[tuple[object, Piece]]) -> list[Pool]:
    """One pool for each key and area."""
    pools: dict[object, Pool] = {}
    for key, piece in pieces:
        both = (key, piece.cells.area)
        pools[both] = (*pools.get(both, ()), piece)
    return list(pools.values())


def cell_pools(tensors: Sequence[MaskedTensor], cells: Sequence[Sequence[str]]) -> list[Pool]:
    """The tensors of one recurrent layer together, all others on their own.

    Args:
        tensors: the masked tensors.
        cells: groups of parameter names, one for each layer.
    """
    group_of = {name: number for number, names in enumerate(cells) for name in names}
    owners: list[object] = [group_of.get(tensor.name, tensor.name) for tensor in tensors]
    return _together((owners[piece.tensor], piece) for pool in tensor_pools(tensors) for piece in pool)


def gate_pools(number: int, tensor: MaskedTensor) -> list[Pool]:
    """One pool for each gate of a tensor; the whole tensor if it has no gates.

    Raises:
        InputError: a block that straddles the border of two gates; only those of an earlier version do.
    """
    strips = tensor.grid.rows
    pieces: list[tuple[object, Piece]] = []
    for gate in tensor.gates:
        if gate.start not in strips or gate.stop not in strips:
            raise InputError(
                f"blocks of {tensor.block[0]} rows straddle the gates of '{tensor.name}' "
                f"(rows {gate.start} to {gate.stop}); use gate_scope=pooled."
            )
        first, end = strips.index(gate.start), strips.index(gate.stop)
        for same in tensor.grid.classes():
            for cells in same:
                start, stop = max(cells.start, first), min(cells.stop, end)
                if start < stop:
                    pieces.append((gate.name, Piece(number, cells._replace(start=start, stop=stop))))
    return _together(
        pieces or [("", Piece(number, cells)) for same in tensor.grid.classes() for cells in same]
    )


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

    def without(self, tensors: Collection[int]) -> "Pools":
        """What is left where nothing of some tensors, by number, may change."""
        if not tensors:
            return self
        both = [(pool, _outside(parts, tensors)) for pool, parts in zip(self.grow, self.parts, strict=True)]
        grow = _outside(self.grow, tensors)
        prune = grow if self.prune is self.grow else _outside(self.prune, tensors)
        return Pools(prune, grow, [parts for pool, parts in both if _outside([pool], tensors)])


def _outside(pools: Iterable[Pool], tensors: Collection[int]) -> list[Pool]:
    rest = (tuple(piece for piece in pool if piece.tensor not in tensors) for pool in pools)
    return [pool for pool in rest if pool]


def make_pools(
    tensors: Sequence[MaskedTensor], cells: Sequence[Sequence[str]], gate_scope: str, everything: bool
) -> Pools:
    """The pools that a gate scope asks for.

    Args:
        tensors: the masked tensors.
        cells: groups of parameter names, one for each recurrent layer.
        gate_scope: "pooled", "even", "independent" or "cell".
        everything: prune all tensors as one pool (for each size of blocks), whatever the scope.
    """
    whole = tensor_pools(tensors)
    gates = [gate_pools(i, t) if gate_scope in ("even", "independent") else [] for i, t in enumerate(tensors)]
    if gate_scope == "independent":
        grow = [pool for pools in gates for pool in pools]
    else:
        grow = cell_pools(tensors, cells) if gate_scope == "cell" else whole
    parts = [[pool] for pool in grow]
    if gate_scope == "even":
        parts = [[part for part in gates[p[0].tensor] if part[0].cells.area == p[0].cells.area] for p in grow]
    prune = _together((None, piece) for pool in whole for piece in pool) if everything else grow
    return Pools(prune, grow, parts)
