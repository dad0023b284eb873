"""Units: which slices of which tensors make up hidden unit k of a layer.

A hidden unit is not one row of one matrix: it owns a row in every gate, a column of the recurrent weight and the
columns that its consumers read it through. Layers list those slices once; group norms, zeroing and the physical
removal of units are then the same few lines for every architecture.

Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018, arXiv:1709.05027.
Differs from the original: the groups follow from the layers instead of hand-written files, and they include every
consumer of a unit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.errors import InputError


@dataclass(frozen=True)
class Slice:
    """Unit k is index `start + k` along `dim` of `module.<name>`, for every start in `starts`.

    Attributes:
        module: the owner of the parameter.
        name: attribute name of the parameter in its owner.
        dim: 0 for rows, 1 for columns.
        starts: one offset per block, such as one per gate.
        in_norm: whether the slice counts in the group norm (biases do not).
        span: the units that own a part of this parameter, where not all do; index `start` is then the first of
            them. None: all.
        removed: called by `remove`, before any parameter is replaced, with the bool tensor (width,) of the units
            that stay: for a layer whose geometry does not follow from the shapes alone.
        reads: whether the unit's value is read through it; None: columns do, rows do not.
    """

    module: nn.Module
    name: str
    dim: int
    starts: tuple[int, ...] = (0,)
    in_norm: bool = True
    span: range | None = None
    removed: Callable[[Tensor], None] | None = None
    reads: bool | None = None

    @property
    def reading(self) -> bool:
        """Whether the unit's value is read through it."""
        return self.dim == 1 if self.reads is None else self.reads

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that is sliced."""
        parameter: nn.Parameter = getattr(self.module, self.name)
        return parameter

    def indices(self, units: Tensor) -> Tensor:
        """Positions along `dim` that the given unit numbers occupy, (len(starts) * len(units),).

        Units outside `span` occupy none.
        """
        if self.span is not None:
            inside = (units >= self.span.start) & (units < self.span.stop)
            units = units[inside] - self.span.start
        return torch.cat([units + start for start in self.starts])

    def covered(self, width: int) -> range:
        """The units, of `width` in all, that own a part of the parameter."""
        return range(width) if self.span is None else self.span


@dataclass
class Cut:
    """How a parameter shrank: kept positions per dimension; applies to every tensor of the old shape."""

    old: nn.Parameter
    kept: dict[int, Tensor] = field(default_factory=dict)
    new: nn.Parameter = field(init=False)

    def apply(self, tensor: Tensor) -> Tensor:
        """Shrink a tensor of the old parameter's shape: the weight, its mask, an optimizer buffer."""
        for dim, index in self.kept.items():
            tensor = tensor.index_select(dim, index.to(tensor.device))
        return tensor.contiguous()


@dataclass(frozen=True)
class Units:
    """The hidden units of one layer and all the slices they own.

    Attributes:
        name: what messages call them.
        width: how many there are.
        slices: everything that belongs to unit k.
        silence: where all of these are 0, the unit is 0 at all times (and what is tied to it is not read either), so
            that it can be removed whatever its other weights are; () where no such weights are known.
        removable: which of the units (width,) bool may go together where all of them could go one by one: for layers
            whose geometry allows only some widths. None: all.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> units = Units("hidden", 2, (Slice(layer, "weight", 0), Slice(layer, "bias", 0, in_norm=False)))
        >>> units.zero(torch.tensor([1]))
        >>> (units.norms() > 0).tolist(), layer.bias[1].item()
        ([True, False], 0.0)
    """

    name: str
    width: int
    slices: tuple[Slice, ...]
    silence: tuple[Slice, ...] = ()
    removable: Callable[[Tensor], Tensor] | None = None

    def squares(self) -> Tensor:
        """Sum of squares per unit over the slices that count in the norm, (width,); carries gradients."""
        parts = [_squares(s, self.width) for s in self.slices if s.in_norm]
        return torch.stack(parts).sum(0) - self._counted_twice()

    def norms(self) -> Tensor:
        """Euclidean norm per unit, exactly 0 for a dead unit, (width,)."""
        return self.squares().detach().clamp(min=0).sqrt()

    @torch.no_grad()
    def zero(self, units: Tensor) -> None:
        """Set every weight and bias of the given units to 0 (int64 unit numbers)."""
        for s in self.slices:
            s.parameter.index_fill_(s.dim, s.indices(units).to(s.parameter.device), 0.0)

    def _counted_twice(self) -> Tensor | float:
        """Weights between a unit and itself lie in a row and in a column of the same tensor."""
        total: Tensor | float = 0.0
        for rows in self.slices:
            for columns in self.slices:
                if (
                    rows.dim == 0
                    and columns.dim == 1
                    and rows.parameter is columns.parameter
                    and rows.in_norm
                ):
                    total = total + _crossings(rows, columns, self.width)
        return total


def _squares(s: Slice, width: int) -> Tensor:
    units = s.covered(width)
    blocks = [s.parameter.narrow(s.dim, start, len(units)) for start in s.starts]
    sums = [b.square().movedim(s.dim, 0).unsqueeze(-1).flatten(1).sum(1) for b in blocks]
    return _placed(torch.stack(sums).sum(0), units, width)


def _crossings(rows: Slice, columns: Slice, width: int) -> Tensor:
    units = range(width)[_overlap(rows.covered(width), columns.covered(width))]
    k = torch.arange(units.start, units.stop)
    row, column = k - rows.covered(width).start, k - columns.covered(width).start
    cells = [rows.parameter[row + r, column + c].square() for r in rows.starts for c in columns.starts]
    return _placed(torch.stack(cells).sum(0), units, width)


def _overlap(a: range, b: range) -> slice:
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


def _placed(values: Tensor, units: range, width: int) -> Tensor:
    """`values` at their units, 0 for all others, (width,)."""
    if len(units) == width:
        return values
    return functional.pad(values, (units.start, width - units.stop))


@torch.no_grad()
def remove(model: nn.Module, units: Sequence[Units], keep: Sequence[Tensor]) -> list[Cut]:
    """Physically remove hidden units: every tensor they own becomes smaller.

    Args:
        model: the owner of all the parameters; tied parameters are replaced in each of their places.
        units: the groups, as `model.units()` gives them.
        keep: for each group a bool tensor (width,) that is True where the unit stays.

    Returns:
        One `Cut` per parameter that shrank, to shrink masks and optimizer buffers alike and to rebuild the
        optimizer with the new parameters.

    Raises:
        InputError: when a layer would lose all its units.

    The outputs are unchanged when the removed units were zeroed before (`Units.zero`).
    """
    cuts: dict[int, Cut] = {}
    gone: dict[tuple[int, int], list[Tensor]] = {}
    for group, kept in zip(units, keep, strict=True):
        if not bool(kept.any()):
            raise InputError(
                f"removing all {group.width} units of '{group.name}' leaves nothing; keep at least one."
            )
        for s in group.slices:
            cuts.setdefault(id(s.parameter), Cut(s.parameter))
            gone.setdefault((id(s.parameter), s.dim), []).append(s.indices((~kept).nonzero().squeeze(1)))
    for group, kept in zip(units, keep, strict=True):
        for s in group.slices:
            if s.removed is not None:
                s.removed(kept)
    for (key, dim), indices in gone.items():
        stays = torch.ones(cuts[key].old.shape[dim], dtype=torch.bool)
        stays[torch.cat(indices)] = False
        cuts[key].kept[dim] = stays.nonzero().squeeze(1)
    for cut in cuts.values():
        cut.new = nn.Parameter(cut.apply(cut.old), requires_grad=cut.old.requires_grad)
    _replace(model, cuts.values())
    return list(cuts.values())


def _replace(model: nn.Module, cuts: Iterable[Cut]) -> None:
    by_identity = {id(cut.old): cut.new for cut in cuts}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in by_identity:
                setattr(module, name, by_identity[id(parameter)])
