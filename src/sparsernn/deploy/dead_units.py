"""Which hidden units a model does not need: removing them leaves what it puts out as it is.

A unit can go where nothing reads it, or where it is 0 at all times. Removing one may leave another unread (in the
layer below, whose only reader it was) or silent (in the layer above, which it alone fed), so the search is repeated
until nothing changes. Some of the units that are found can be removed, or all.

Source of the strict criterion: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory",
2018, arXiv:1709.05027.
Differs from the original: the two wider criteria, which are as exact, and the repetition over the layers.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.core.checks import checked
from sparsernn.core.limits import OneOf
from sparsernn.structure.units import Slice, Units

CRITERIA = ("any", "strict", "unread", "silent")
"""strict: all weights of the unit are 0; unread: those are through which it is read; silent: those are that make it
other than 0; any: unread or silent (a strictly dead unit is both, biases aside)."""

Tensors = dict[int, Tensor]


@torch.no_grad()
@checked
def dead_units(
    units: Sequence[Units],
    criterion: Annotated[str, OneOf(CRITERIA)] = "any",
    zeroed: Sequence[Tensor] = (),
) -> list[Tensor]:
    """The units that a model does not need.

    Args:
        units: the groups, as `model.units()` gives them.
        criterion: one of `CRITERIA`.
        zeroed: for each group units (width,) bool that count as 0 although their weights are not; () for none.

    Returns:
        For each group a bool tensor (width,), True where the unit can go. At least one unit of a group stays: where
        none is needed, the one with the largest norm.

    Raises:
        InputError: another criterion.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> model = LanguageModel(10, 4, [3, 2])
        >>> model.units()[1].zero(torch.tensor([0]))
        >>> model.layers[1].weight_ih.data[:, 1] = 0    # its only other reader now is the layer itself
        >>> model.layers[0].weight_hh.data[:, 1] = 0
        >>> [dead.tolist() for dead in dead_units(model.units())]
        [[False, True, False], [True, False]]
    """
    left: Tensors = {
        id(s.parameter): s.parameter.detach().clone() for g in units for s in (*g.slices, *g.silence)
    }
    for group, weak in zip(units, zeroed, strict=False):
        _zero(group, left, weak)
    dead = [torch.zeros(group.width, dtype=torch.bool) for group in units]
    changed = True
    while changed:
        changed = False
        for number, group in enumerate(units):
            found = _survived(group, dead[number], _without_use(group, left, criterion) | dead[number])
            if bool((found & ~dead[number]).any()):
                changed, dead[number] = True, found
                _zero(group, left, found)
    return dead


def removable(units: Sequence[Units], dead: Sequence[Tensor]) -> list[Tensor]:
    """Those of the dead units that the geometry of their layer lets go; see `Layer.removable`."""
    return [
        found if g.removable is None else g.removable(found) for g, found in zip(units, dead, strict=True)
    ]


def weak_units(units: Sequence[Units], tol: float) -> list[Tensor]:
    """Units whose norm is below `tol` but not 0, (width,) bool each; the strongest of a group is never one."""
    weak = []
    for group in units:
        norms = group.norms().cpu()
        found = (norms > 0) & (norms < tol)
        found[norms.argmax()] = False
        weak.append(found)
    return weak


def _survived(group: Units, before: Tensor, found: Tensor) -> Tensor:
    """`found`, but for one unit where that would be all of them: the strongest that was not dead before."""
    if not bool(found.all()):
        return found
    norms = group.norms().cpu().masked_fill(before, -1.0)
    found = found.clone()
    found[norms.argmax()] = False
    return found


def _without_use(group: Units, tensors: Tensors, criterion: str) -> Tensor:
    unread = _all_zero([s for s in group.slices if s.reading], tensors, group.width)
    silent = _all_zero(group.silence, tensors, group.width)
    if criterion == "any":
        return unread | silent
    if criterion == "strict":
        return _all_zero([s for s in group.slices if s.in_norm], tensors, group.width) & unread
    return unread if criterion == "unread" else silent


def _all_zero(slices: Sequence[Slice], tensors: Tensors, width: int) -> Tensor:
    """Units all of whose weights in these slices are exactly 0; none where there are no slices."""
    zero = torch.full((width,), bool(slices))
    for s in slices:
        units = s.covered(width)
        for start in s.starts:
            block = tensors[id(s.parameter)].narrow(s.dim, start, len(units)).movedim(s.dim, 0)
            zero[units.start : units.stop] &= (block.reshape(len(units), -1) == 0).all(1).cpu()
    return zero


def _zero(group: Units, tensors: Tensors, dead: Tensor) -> None:
    indices = dead.nonzero().squeeze(1)
    for s in group.slices:
        tensor = tensors[id(s.parameter)]
        tensor.index_fill_(s.dim, s.indices(indices).to(tensor.device), 0.0)
