"""Which tensors carry a mask, and how a mask looks to the rules.

Rules see every tensor as a *grid*: a matrix with one entry for each unit that lives or dies as a whole.
Without blocks the grid is the tensor itself, flattened to rows x rest; with blocks it has one entry per
block, whose value is the mean magnitude of the weights inside, however many those are (see `BlockGrid`). So no rule
needs to know about blocks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.block_grid import BlockGrid
from sparsernn.sparsity.dynamic.engine_settings import Tensors
from sparsernn.sparsity.dynamic.flags import Flags
from sparsernn.sparsity.reparametrized import check_zeros_count
from sparsernn.structure.gates import GateBlock, gate_blocks


@dataclass(eq=False)
class MaskedTensor:
    """A parameter and its mask.

    Attributes:
        name: full name in the model.
        parameter: the weight itself.
        density: the density asked for.
        own: that density was asked for this tensor alone.
        gates: its gate blocks, empty if it has none.
        block: rows and columns of one unit of the grid; those at a border may have fewer.
        grid: where the units lie.
        present: where a weight exists.
        seen: where a weight has existed at least once.
    """

    name: str
    parameter: nn.Parameter
    density: float
    own: bool
    gates: tuple[GateBlock, ...]
    block: tuple[int, int]
    grid: BlockGrid
    present: Flags
    seen: Flags

    @property
    def mask(self) -> Tensor:
        """bool, shape and device of the weights; changed in place only, so references stay live (see `Flags`)."""
        return self.present.tensor

    @property
    def ever(self) -> Tensor:
        """bool, True where the weight was active at least once; likewise."""
        return self.seen.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights; the parameter may hold the existing ones alone."""
        return self.present.shape

    @property
    def area(self) -> int:
        """Weights in one whole unit of the grid."""
        return self.block[0] * self.block[1]

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.grid.shape

    @property
    def by_gate(self) -> bool:
        """Whether the grid begins anew at every gate."""
        return self.grid == grid_of(self.shape, self.block, self.gates)

    def cut(self, block: tuple[int, int], by_gate: bool) -> None:
        """Give it another grid."""
        self.block, self.grid = block, grid_of(self.shape, block, self.gates if by_gate else ())

    def values(self, tensor: Tensor | None) -> Tensor:
        """The grid of any tensor of the parameter's shape, on the CPU (zeros for None).

        Signs are kept without blocks; entries of blocks are mean magnitudes. Half precision is widened.
        """
        if tensor is None:
            return torch.zeros(self.grid_shape)
        tensor = tensor.detach()
        dense = tensor.to_dense() if tensor.is_sparse else tensor
        wide = dense if dense.dtype in (torch.float32, torch.float64) else dense.float()
        flat = wide.reshape(self.shape[0], -1)
        if not self.grid.is_single:
            flat = self.grid.means(flat.abs())
        return flat.cpu().contiguous()

    def grid_mask(self) -> Tensor:
        """The mask as a grid on the CPU (the mask itself, not a copy, where it can be)."""
        return self.grid.sample(self.mask.view(self.shape[0], -1)).cpu().contiguous()

    def expand(self, grid: Tensor) -> Tensor:
        """A bool grid as a tensor of the parameter's shape and device."""
        return self.grid.expand(grid).view(self.shape).to(self.parameter.device)


def grid_of(shape: Sequence[int], block: tuple[int, int], gates: Sequence[GateBlock]) -> BlockGrid:
    """The grid of a tensor in blocks that begin anew at every gate.

    >>> grid_of((6, 2), (4, 1), ()).rows
    (0, 4, 6)
    """
    flat = (shape[0], math.prod(shape[1:]))
    return BlockGrid.of(flat, block, [(gate.start, gate.stop) for gate in gates])


def choose_tensors(model: nn.Module, settings: Tensors) -> list[MaskedTensor]:
    """The parameters that the settings select, with masks that are still all False.

    Candidates are the trainable floating parameters with at least two dimensions and an element whose own name does
    not contain "bias". A parameter with several names (tied weights) takes part once, under its first name, if
    any of them matches.

    Raises:
        InputError: a pattern that matches nothing, nothing left to mask, or a parameter whose zeros would be lost on
            the way to the weight that is used (see `check_zeros_count`).
    """
    names = _candidate_names(model)
    _check_patterns(names.values(), [*settings.include, *settings.exclude, *settings.densities])
    gates = gate_blocks(model)
    by_name = dict(model.named_parameters())
    wanted = [
        aliases
        for aliases in names.values()
        if _matches(aliases, settings.include) and not _matches(aliases, settings.exclude)
    ]
    for aliases in wanted:
        check_zeros_count(model, aliases[0])
    if not wanted:
        frozen = next((n for n, p in model.named_parameters() if p.ndim > 1 and not p.requires_grad), None)
        why = (
            f"'{frozen}' and its like are frozen (requires_grad=False)"
            if frozen and not names
            else "check include and exclude"
        )
        raise InputError(f"no tensor is left to be sparse; {why}.")
    return [_masked(by_name[aliases[0]], aliases, gates, settings) for aliases in wanted]


def told_fallback(tensors: Sequence[MaskedTensor], settings: Tensors) -> list[str]:
    """Which tensors are masked by single weights though blocks were asked for; a sentence, if there are any."""
    size = settings.block_size
    names = [f"{t.name} ({t.shape[0]} x {math.prod(t.shape[1:])})" for t in tensors if t.block != size]
    if not names:
        return []
    return [
        f"masked by single weights, being smaller than a block of {size[0]} x {size[1]}: {', '.join(names)}."
    ]


def check_one_area(tensors: Sequence[MaskedTensor], what: str) -> None:
    """Refuse to move budget between tensors of which some are in blocks and some in single weights.

    Raises:
        InputError: quoting `what`, the setting that would move it.
    """
    if len({tensor.block for tensor in tensors}) > 1:
        odd = next(t.name for t in tensors if t.block != tensors[0].block)
        raise InputError(
            f"{what} shares one budget between tensors, but '{odd}' has another block size than "
            f"'{tensors[0].name}'; exclude the tensors that fell back, "
            "or use a rule that keeps to each tensor."
        )


def _candidate_names(model: nn.Module) -> dict[int, list[str]]:
    """Identity of each candidate parameter -> all its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        floating = parameter.requires_grad and parameter.is_floating_point() and parameter.numel()
        if floating and parameter.ndim >= 2 and "bias" not in name.rsplit(".", 1)[-1]:
            names.setdefault(id(parameter), []).append(name)
    return names


def _matches(aliases: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(alias, pattern) for pattern in patterns for alias in aliases)


def _check_patterns(names: Iterable[Sequence[str]], patterns: Iterable[str]) -> None:
    known = [alias for aliases in names for alias in aliases]
    for pattern in patterns:
        if known and not _matches(known, [pattern]):
            raise InputError(
                f"the pattern '{pattern}' matches no weight; the weights are {', '.join(known)}."
            )


def _masked(
    parameter: nn.Parameter,
    aliases: Sequence[str],
    gates: Mapping[str, tuple[GateBlock, ...]],
    settings: Tensors,
) -> MaskedTensor:
    own = [d for pattern, d in settings.densities.items() if _matches(aliases, [pattern])]
    empty = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    block = settings.block_for(parameter.shape[0], math.prod(parameter.shape[1:]))
    mine = next((gates[alias] for alias in aliases if alias in gates), ())
    return MaskedTensor(
        name=aliases[0],
        parameter=parameter,
        density=own[0] if own else settings.density,
        own=bool(own),
        gates=mine,
        block=block,
        grid=grid_of(parameter.shape, block, mine),
        present=Flags(empty),
        seen=Flags(empty.clone()),
    )
