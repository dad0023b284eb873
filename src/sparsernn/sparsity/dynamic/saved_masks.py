"""Whether saved masks are of these tensors, and where the blocks lay that they were made of."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor
from sparsernn.sparsity.saved_state import refuse


def check_same_tensors(tensors: Sequence[MaskedTensor], masks: Mapping[str, Tensor]) -> None:
    """Raise InputError where names or shapes differ."""
    mine = {t.name: tuple(t.shape) for t in tensors}
    theirs = {name: tuple(m.shape) for name, m in masks.items() if isinstance(m, Tensor) and m.numel()}
    if mine != theirs:
        odd = min(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        there, here = theirs.get(odd, "dense"), mine.get(odd, "dense")
        raise InputError(f"the saved masks do not fit: '{odd}' is {there} there and {here} here.")


def saved_grids(tensors: Sequence[MaskedTensor]) -> dict[str, Json]:
    """What is saved of the grids: name -> rows and columns of a block, and whether each gate begins with one."""
    return {t.name: [*t.block, t.by_gate] for t in tensors}


def check_grids(saved: object, tensors: Sequence[MaskedTensor], block: Sequence[int]) -> None:
    """Raise InputError unless the saved grids, if there are any, are of blocks of this size, or of single weights."""
    if not isinstance(saved, Mapping):
        refuse(f"'grids' is a {type(saved).__name__}")
    for name in (t.name for t in tensors if saved):
        if saved.get(name) not in [[*size, gates] for size in ([*block], [1, 1]) for gates in (True, False)]:
            refuse(f"'{name}' of 'grids' is {str(saved.get(name))[:40]}")


def cut_as_saved(saved: Mapping[str, Json], tensors: Sequence[MaskedTensor], block: Sequence[int]) -> None:
    """Give the tensors the grids of a saved state.

    States of before there were blocks at borders have none: then blocks divided a tensor, whatever its gates, or it
    was in single weights.
    """
    for tensor in tensors:
        width = math.prod(tensor.shape[1:])
        divided = tensor.shape[0] % block[0] == 0 and width % block[1] == 0
        earlier = [*block, False] if divided else [1, 1, False]
        rows, columns, by_gate = saved.get(tensor.name, earlier)
        tensor.cut((rows, columns), by_gate)
