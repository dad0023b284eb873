"""Group lasso over hidden units: learning which ones a network can do without.

The penalty of a layer is strength * sum over its units of R_k, with R_k = sqrt(1e-8 + sum of squares of all that
unit k owns): its rows in every gate, its recurrent column, and the columns through which it is read. A unit all of
whose weights have come to 0 can be removed, and what is left is a smaller dense network.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn
from torch.optim import Optimizer

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative, OneOf
from sparsernn.core.plain import Json
from sparsernn.sparsity.optimizer_state import Optimizers, buffers
from sparsernn.sparsity.penalties.group_kinds import grouped
from sparsernn.sparsity.penalties.group_norms import Groups
from sparsernn.sparsity.penalties.penalty import NO_PENALTY, Penalty, per_token, threshold
from sparsernn.sparsity.saved_state import check_keys, check_tensors
from sparsernn.sparsity.weight_counts import summarize
from sparsernn.structure.torch_units import units_of
from sparsernn.structure.units import Slice, Units

EPSILON = 1e-8
"""Inside the root, as published: the gradient of a dead group is 0 and not undefined."""

MODES = ("subgradient", "prox")


@checked
@dataclass(frozen=True)
class LassoSettings:
    """How group lasso shrinks.

    Attributes:
        strength: lambda, per token, at least 0.
        mode: "subgradient" or "prox", see `group_lasso`.
        threshold: weights below are put to 0 after every step; 0 for never.
        threshold_all: do so in every trained tensor, not only in those that belong to groups.
        freeze_dead: a unit that has died stays dead, its biases included.
        scale_by_size: strength * sqrt(size of the group / mean size).
        count_diagonal_twice: weights between a unit and itself count by their row and by their column.
        group_by: "units", "readers" or "rows_and_columns", see `grouping.grouped`.
    """

    strength: float
    mode: Annotated[str, OneOf(MODES)] = "subgradient"
    threshold: NonNegative = 1e-4
    threshold_all: bool = False
    freeze_dead: bool = False
    scale_by_size: bool = False
    count_diagonal_twice: bool = True
    group_by: str = "units"

    def __post_init__(self) -> None:
        if self.mode == "prox" and self.group_by != "units":
            raise InputError(f"group_by is {self.group_by!r}; with mode 'prox' it must be 'units'.")


class GroupLasso(Penalty):
    """Group lasso over the hidden units of a model. `group_lasso` builds it from plain settings.

    Args:
        units: the layers and the slices of their units.
        settings: see `LassoSettings`.
        model: whose weights they are.
        optimizer: needed with mode "prox", for its learning rate; its buffers follow frozen units.

    Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018,
    arXiv:1709.05027.
    Differs from the original: gradients in closed form, thresholds only where a weight belongs to a group, and mode
    "prox", freezing and scaling by size besides.
    """

    def __init__(
        self,
        units: Sequence[Units],
        settings: LassoSettings,
        model: nn.Module,
        optimizer: Optimizers = None,
    ) -> None:
        super().__init__(model, optimizer)
        _check_own(units)
        self.settings = settings
        self.units, counts = grouped(units, settings.group_by, model)
        prox = settings.mode == "prox"
        if prox:
            _check_trained(self.units, self.optimizers)
        self.groups = (
            Groups(self.units, _incoming)
            if prox
            else Groups(self.units, counts, twice=settings.count_diagonal_twice)
        )
        sizes = self.groups.sizes().double()
        scales = (sizes / sizes.mean()).sqrt() if settings.scale_by_size else torch.ones_like(sizes)
        self.strengths = settings.strength * scales
        self.dead = torch.zeros(self.groups.count, dtype=torch.bool, device=sizes.device)
        self.freezes = settings.freeze_dead

    def value(self) -> float:
        """The penalty at the present weights."""
        norms = (self.groups.squares().double() + self._epsilon()).sqrt()
        return float((self.strengths * norms).sum())

    def notes(self) -> list[str]:
        """A strength of 0 that is not there for its threshold."""
        return [] if self.settings.strength or self.settings.threshold else [f"iss: {NO_PENALTY}"]

    def touches(self) -> list[nn.Parameter]:
        """Those in which the groups lie."""
        return self.groups.parameters

    def add_gradients(self, scale: float = 1.0) -> None:
        """strength / R_k times each weight of the group; nothing in mode "prox"."""
        if self.settings.mode == "prox" and not self.settings.freeze_dead:
            return
        squares = self.groups.squares()
        if self.settings.freeze_dead:
            self.dead |= squares == 0
        if self.settings.mode != "prox":
            self.groups.add(scale * self.strengths.to(squares) / (squares + EPSILON).sqrt())

    def after_step(self) -> list[dict[str, Json]]:
        """Shrink (mode "prox"), threshold, and keep frozen units at 0."""
        if self.settings.mode == "prox":
            self._shrink()
        return super().after_step()

    def project(self) -> None:
        """Threshold, and keep frozen units at 0."""
        chosen = self.groups.parameters
        if self.settings.threshold_all and self.model is not None:
            chosen = [p for p in self.model.parameters() if p.requires_grad]
        threshold(chosen, self.settings.threshold)
        if self.freezes and bool(self.dead.any()):
            self._bury()

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """The event "units" (of each layer its width, how many units are dead, the norms of all), and "zeros"."""
        return [{"event": "units", "layers": self._layers(norms=True)}, *super().end_epoch(averaging_starts)]

    def summary(self) -> dict[str, Json]:
        """As `summarize`, exact zeros counting as absent; and `units`: [{name, width, dead}]."""
        named = dict(self.model.named_parameters()) if self.model is not None else {}
        own = {id(p) for p in self.groups.parameters}
        present = {name: p.detach() != 0 for name, p in named.items() if id(p) in own}
        return {**summarize(self.model, present), "units": self._layers()}

    def state_dict(self) -> dict[str, Json]:
        """Which units are frozen; everything else follows from the weights."""
        return {"dead": self.dead.clone()} if self.settings.freeze_dead else {}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from `state_dict`.

        Raises:
            InputError: it is of another kind of penalty, or of another number of units.
        """
        own = self.state_dict()
        check_keys(state, own)
        check_tensors("units", state, own)
        if own:
            self.dead.copy_(state["dead"])

    def _epsilon(self) -> float:
        return 0.0 if self.settings.mode == "prox" else EPSILON

    def _layers(self, norms: bool = False) -> list[dict[str, Json]]:
        squares = self.groups.by_layer(self.groups.squares())
        rows = []
        for group, own in zip(self.units, squares, strict=True):
            row: dict[str, Json] = {"name": group.name, "width": group.width, "dead": int((own == 0).sum())}
            if norms:
                row["norms"] = [round(norm, 4) for norm in own.double().sqrt().tolist()]
            rows.append(row)
        return rows

    def _shrink(self) -> None:
        """weight *= max(0, 1 - learning rate * strength / norm) for every group."""
        norms = self.groups.squares().sqrt()
        pairs = zip(self.groups.widths, self._learning_rates(), strict=True)
        rates = torch.cat([norms.new_full((width,), rate) for width, rate in pairs])
        steps = rates * self.strengths.to(norms)
        self.groups.shrink((1 - steps / norms.clamp(min=EPSILON)).clamp(min=0))

    def _learning_rates(self) -> list[float]:
        """Of each layer: that of the first parameter that its units own a row of."""
        rates = _rates(self.optimizers)
        firsts = (next(s for s in group.slices if _incoming(s)) for group in self.units)
        return [float(rates.get(id(s.parameter), 0.0)) for s in firsts]

    @torch.no_grad()
    def _bury(self) -> None:
        """Put all that dead units own to 0, and what the optimizer keeps for it."""
        for group, dead in zip(self.units, self.groups.by_layer(self.dead), strict=True):
            numbers = dead.nonzero().squeeze(1)
            for s in group.slices if len(numbers) else ():
                index = s.indices(numbers)
                for tensor in (s.parameter, *buffers(self.optimizers, s.parameter)):
                    tensor.index_fill_(s.dim, index.to(tensor.device), 0.0)


def _rates(optimizers: Iterable[Optimizer]) -> dict[int, float]:
    """Learning rate of each parameter, by identity."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}


def _check_trained(units: Sequence[Units], optimizers: Sequence[Optimizer]) -> None:
    """The proximal map shrinks whole units at the learning rate, so all of a unit has to have one."""
    if not optimizers:
        raise InputError("mode 'prox' shrinks at the learning rate, so it needs the optimizer.")
    rates = _rates(optimizers)
    for group in units:
        for s in filter(_incoming, group.slices):
            if not s.parameter.requires_grad or id(s.parameter) not in rates:
                state = "frozen" if not s.parameter.requires_grad else "in no optimizer that was given"
                raise InputError(
                    f"mode 'prox' shrinks whole units, but '{s.name}' of {group.name} is {state}; train it, or use "
                    "mode 'subgradient'."
                )


def _check_own(units: Sequence[Units]) -> None:
    """Slices are of parameters; what a pruning or a parametrization computes anew at every use cannot be shrunk."""
    for group in units:
        for s in group.slices:
            if s.module._parameters.get(s.name) is None:
                raise InputError(
                    f"'{s.name}' of {group.name} is computed from other tensors at every use (by pruning, weight "
                    "drop or a parametrization), so shrinking it would change nothing; make it a parameter again."
                )


def _incoming(s: Slice) -> bool:
    """Rows and biases of a unit: every weight is then in one group at most."""
    return s.dim == 0 and not s.reading


def group_lasso(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    strength: float,
    lambda_scale: str = "per_token",
    window: int | None = None,
    mode: str = "subgradient",
    threshold: float | None = None,
    threshold_all: bool = False,
    freeze_dead: bool = False,
    scale_by_size: bool = False,
    count_diagonal_twice: bool = True,
    group_by: str = "units",
    consumers: Mapping[str, Iterable[str]] | None = None,
    example: object = None,
) -> GroupLasso:
    """Group lasso over the hidden units of a model ("iss", intrinsic sparse structures).

    Args:
        model: one with `units()`, or any module with `nn.LSTM`, `nn.GRU` or `nn.RNN` in it.
        optimizer: needed with mode "prox".
        strength: lambda, at least 0.
        lambda_scale: "per_token": `strength` belongs to a loss that is a mean over tokens, as in this library;
            "per_sequence": to one that is summed over the window, as in the original; it is divided by the window.
        window: time steps of a training window; recipes know it from their task.
        mode: "subgradient", as published: strength * w / R_k is part of the gradient that is clipped, and after the
            step weights below `threshold` become 0; groups overlap. "prox": a group is what enters a unit, its rows
            and biases, so that no weight is in two; after the step each is multiplied by
            max(0, 1 - lr * strength / norm), the proximal map, which reaches 0 by itself and suits Adam too.
        threshold: None: 1e-4 for "subgradient", as published, and 0 for "prox".
        threshold_all: as published, also biases and the embedding.
        freeze_dead: a unit whose group is 0 stays dead, its biases included. In published runs weights may revive.
        scale_by_size: larger groups are penalised more, by sqrt(size / mean size).
        count_diagonal_twice: as published; False counts the weights between a unit and itself once.
        group_by: "units": all that a unit owns. "readers": only the weights through which it is read; a unit that
            nobody reads can be removed as well. "rows_and_columns": every row and column of the units' matrices is a
            group of its own; for comparison, it leaves no smaller network.
        consumers: for modules of torch alone, which modules read them: see `units_of`.
        example: inputs of a call, to see who reads where that cannot be told otherwise: see `units_of`.

    Raises:
        InputError: an impossible value, or units that cannot be told.

    Example:
        >>> model = nn.Sequential(nn.LSTM(8, 16))
        >>> penalty = group_lasso(model, strength=0.01, consumers={"0": []})
        >>> penalty.groups.sizes()[0].item()   # 4 rows of 8 + 16, a column of 64
        160

    Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018,
    arXiv:1709.05027.
    """
    default = 1e-4 if mode == "subgradient" else 0.0
    settings = LassoSettings(
        per_token(strength, lambda_scale, window),
        mode,
        default if threshold is None else threshold,
        threshold_all,
        freeze_dead,
        scale_by_size,
        count_diagonal_twice,
        group_by,
    )
    return GroupLasso(units_of(model, consumers, example=example), settings, model, optimizer)
