"""Groups of weights that may overlap: their norms, the gradients of those, and shrinkage, in few passes over memory.

A group owns rows of some matrices and columns of others. All groups of a matrix are seen in one pass: its rows' and
columns' sums of squares are added up where they belong.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.kernels import lasso_kernel
from sparsernn.structure.units import Slice, Units


def dense_gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter, dense and laid out as the parameter is; zeros where there was none.

    What is added to it is added to no other parameter's: autograd gives two parameters of one number each one number
    in memory, where it is the gradient of both (`a.sum() + b.sum()`).

    >>> dense_gradient(nn.Parameter(torch.ones(2))).tolist()
    [0.0, 0.0]
    """
    given = parameter.grad
    if given is None:
        given = parameter.grad = torch.zeros_like(parameter)
    elif given.is_sparse or given.stride() != parameter.stride() or given.numel() == 1:
        dense = given.to_dense() if given.is_sparse else given
        given = parameter.grad = torch.empty_like(parameter).copy_(dense)
    return given


@dataclass
class Member:
    """A parameter, and which group owns each of its rows and columns.

    Attributes:
        parameter: of any shape; dimensions beyond the second count as columns.
        rows: for each claim, the group of every row, int64 (R,); the number of groups stands for none.
        columns: the same for columns, (C,).
        crossings: rows, columns and groups of the weights that one group owns by their row and by their column.
    """

    parameter: nn.Parameter
    rows: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    crossings: tuple[Tensor, Tensor, Tensor] | None = None

    def matrix(self, tensor: Tensor | None = None) -> Tensor:
        """The parameter, or a tensor of its shape, as (R, C)."""
        whole = self.parameter.detach() if tensor is None else tensor
        return whole.view(len(whole), -1)

    def gradient(self) -> Tensor:
        """Its dense gradient, zeros where there was none."""
        return self.matrix(dense_gradient(self.parameter))

    def claim(self, s: Slice, covered: range, first: int, none: int) -> None:
        """Give the units `covered`, the first of all being group `first`, what they own by a slice."""
        if s.dim not in (0, 1):
            raise InputError(
                f"a group along dimension {s.dim} of '{s.name}' is impossible; it must be 0 or 1."
            )
        inner = self.parameter.shape[2:].numel() if s.dim else 1
        positions = torch.cat([torch.arange(len(covered)) + start for start in s.starts])
        groups = (torch.arange(covered.start, covered.stop) + first).repeat(len(s.starts))
        if inner > 1:
            positions = (positions.unsqueeze(1) * inner + torch.arange(inner)).flatten()
            groups = groups.repeat_interleave(inner)
        claims = self.columns if s.dim else self.rows
        free = next((c for c in claims if bool((c[positions.to(c.device)] == none).all())), None)
        if free is None:
            size = self.matrix().shape[s.dim]
            free = torch.full((size,), none, device=self.parameter.device)
            claims.append(free)
        free[positions.to(free.device)] = groups.to(free.device)

    def cross(self, none: int) -> None:
        """Find the crossings."""
        found = [
            (*pair.unbind(1), row[pair[:, 0]])
            for row in self.rows
            for column in self.columns
            for pair in [((row.unsqueeze(1) == column) & (row.unsqueeze(1) != none)).nonzero()]
        ]
        if found:
            row, column, group = (torch.cat(part) for part in zip(*found, strict=True))
            self.crossings = row, column, group


class Groups:
    """The groups of several layers, one after another.

    Args:
        units: the layers and the slices of their units.
        counts: which slices make up a group; by default those that count in the norm.
        twice: whether the weights between a unit and itself count by their row and by their column.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> groups = Groups([Units("hidden", 2, (Slice(layer, "weight", 0),))])
        >>> groups.squares().tolist(), groups.sizes().tolist()
        ([3.0, 3.0], [3, 3])
    """

    def __init__(
        self,
        units: Sequence[Units],
        counts: Callable[[Slice], bool] = lambda s: s.in_norm,
        twice: bool = True,
    ) -> None:
        self.units = list(units)
        self.widths = [group.width for group in units]
        self.count = sum(self.widths)
        self.members = self._members(counts)
        if not self.members:
            raise InputError("no unit owns a weight that is trained, so there is nothing to penalise.")
        for member in () if twice else self.members:
            member.cross(self.count)

    def _members(self, counts: Callable[[Slice], bool]) -> list[Member]:
        found: dict[int, Member] = {}
        first = 0
        for group in self.units:
            for s in group.slices:
                if counts(s) and s.parameter.requires_grad:
                    member = found.setdefault(id(s.parameter), Member(s.parameter))
                    member.claim(s, s.covered(group.width), first, self.count)
            first += group.width
        return list(found.values())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What belongs to groups, each parameter once."""
        return [member.parameter for member in self.members]

    @torch.no_grad()
    def squares(self) -> Tensor:
        """Sum of squares of each group, (groups,), in float32 at least."""
        return self._sum(lambda member: lasso_kernel.squares(member.matrix()), lambda cells: cells.square())

    def sizes(self) -> Tensor:
        """How many weights each group counts, int64 (groups,)."""

        def lengths(member: Member) -> tuple[Tensor, Tensor]:
            rows, columns = member.matrix().shape
            return torch.full((rows,), float(columns)), torch.full((columns,), float(rows))

        return self._sum(lengths, torch.ones_like).long()

    def _sum(
        self, of: Callable[[Member], tuple[Tensor, Tensor]], cells: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Row and column sums where they belong; one group more takes what belongs to none."""
        like = self.members[0].parameter
        kind = torch.promote_types(like.dtype, torch.float32)
        total = torch.zeros(self.count + 1, dtype=kind, device=like.device)
        for member in self.members:
            for claims, sums in zip((member.rows, member.columns), of(member), strict=True):
                for claim in claims:
                    total.index_add_(0, claim.to(like.device), sums.to(total))
            if member.crossings is not None:
                row, column, group = member.crossings
                doubled = cells(member.matrix()[row, column]).to(total)
                total.index_add_(0, group.to(like.device), doubled, alpha=-1)
        return total[:-1]

    @torch.no_grad()
    def add(self, factors: Tensor) -> None:
        """gradient += factor * weight for every group that owns the weight; factors (groups,)."""
        factors = torch.cat([factors, factors.new_zeros(1)])
        for member in self.members:
            matrix, gradient = member.matrix(), member.gradient()
            along = [_gathered(factors, c, n) for c, n in zip(_claims(member), matrix.shape, strict=True)]
            by_row, by_column = (a.to(matrix.device) for a in along)
            lasso_kernel.add_scaled(gradient, matrix, by_row, by_column)
            if member.crossings is not None:
                row, column, group = member.crossings
                surplus = factors.to(matrix.device)[group].to(matrix.dtype) * matrix[row, column]
                gradient.index_put_((row, column), -surplus, accumulate=True)

    @torch.no_grad()
    def shrink(self, factors: Tensor) -> None:
        """weight *= factor of the group that owns its row; factors (groups,). Columns are left alone."""
        factors = torch.cat([factors, factors.new_ones(1)])
        for member in self.members:
            for claim in member.rows:
                matrix = member.matrix()
                matrix.mul_(factors.to(matrix)[claim].unsqueeze(1))

    def by_layer(self, values: Tensor) -> list[Tensor]:
        """(groups,) -> one tensor (width,) for each layer."""
        return list(torch.split(values, self.widths))


def _claims(member: Member) -> tuple[list[Tensor], list[Tensor]]:
    return member.rows, member.columns


def _gathered(factors: Tensor, claims: Iterable[Tensor], size: int) -> Tensor:
    """Sum over the claims of the factor of each position's group, (size,)."""
    parts: list[Tensor] = [factors[claim.to(factors.device)] for claim in claims]
    return sum(parts[1:], parts[0]) if parts else factors.new_zeros(size)
