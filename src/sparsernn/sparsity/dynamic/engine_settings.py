"""The settings of dynamic sparse training, in five small groups.

Users write them flat (`density=0.33, prune_rate=0.7, gate_scope="even"`); `parse` sorts them into the groups
and answers anything it does not know with what it does. Only `update` is a mapping of its own.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_names
from sparsernn.core.limits import Count, Density, DropRate, Entries, OneOf, Positive, Share, Size
from sparsernn.core.plain import Json
from sparsernn.core.registry import check_value
from sparsernn.kernels.sparse_layout import TALL
from sparsernn.sparsity.dynamic.growth import GROW
from sparsernn.sparsity.dynamic.pruning import PRUNE

INITS = ("uniform", "uniform_bernoulli", "erdos_renyi")
RESCALES = ("none", "fan_in")
REDISTRIBUTIONS = ("none", "magnitude", "momentum", "nonzeros", "uniform")
GATE_SCOPES = ("pooled", "even", "independent", "cell")
REGROW_INITS = ("zero", "keep", "small_random")
STATES_AT_GROWTH = ("reset", "keep_returned", "keep")
ANNEALS = ("cosine", "linear", "constant")
UNITS = ("epoch", "step")
AUTO_BLOCK = (TALL, 1)
Block = Annotated[Sequence[Size], Entries(2, 2)] | Literal["auto"]
Group = TypeVar("Group")


@dataclass(frozen=True)
class Tensors:
    """Which tensors are sparse, and how sparse.

    Attributes:
        density: fraction of weights kept, in (0, 1].
        include: names or glob patterns; a parameter takes part if one matches.
        exclude: names or glob patterns; a parameter that matches one stays dense.
        densities: name or glob pattern -> density of its own; the first match counts.
        block: rows and columns of the blocks that masks are made of; (1, 1) is unstructured. Blocks begin anew at
            every gate, and the last ones of a gate, and of a tensor, have the rows and columns that are left. "auto"
            is (16, 1), the shape that sparse products are made for, with `block_fallback`.
        block_fallback: a tensor with fewer rows or columns than one block becomes unstructured, in place of blocks
            that are as small as it is.
    """

    density: Density
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    densities: Mapping[str, Density] = field(default_factory=dict)
    block: Block = (1, 1)
    block_fallback: bool = False

    @property
    def block_size(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        rows, columns = AUTO_BLOCK if self.block == "auto" else self.block
        return int(rows), int(columns)

    def block_for(self, rows: int, columns: int) -> tuple[int, int]:
        """The same for a matrix of this size: (1, 1) if it falls back.

        >>> [Tensors(0.5, block="auto").block_for(rows, 4) for rows in (15, 17)]
        [(1, 1), (16, 1)]
        """
        size = self.block_size
        falls_back = self.block_fallback or self.block == "auto"
        return (1, 1) if falls_back and (rows < size[0] or columns < size[1]) else size


@dataclass(frozen=True)
class Rules:
    """How masks begin and how they change.

    Attributes:
        init: "uniform", "uniform_bernoulli" (uniform with exact=False) or "erdos_renyi".
        exact: initial counts are exact; False flips a coin for each position, as the originals do.
        rescale: "fan_in" multiplies initial weights by 1 / sqrt(density of the tensor); "none" leaves them.
        prune: "magnitude", "set", "threshold" or "global_magnitude".
        grow: "random", "gradient", "momentum" or "momentum_neuron".
        redistribute: what shares the pruned budget between tensors: "none" (each gets back what it lost),
            "magnitude", "momentum", "nonzeros" or "uniform".
        gate_scope: what competes inside a recurrent layer: "pooled", "even", "independent" or "cell".
        tau: first value of the adaptive threshold, and the threshold of "nonzeros", above 0; 0.001 as in the
            original.
    """

    init: Annotated[str, OneOf(INITS)] = "uniform"
    exact: bool = True
    rescale: Annotated[str, OneOf(RESCALES)] = "none"
    prune: Annotated[str, OneOf(PRUNE)] = "magnitude"
    grow: Annotated[str, OneOf(GROW)] = "random"
    redistribute: Annotated[str, OneOf(REDISTRIBUTIONS)] = "none"
    gate_scope: Annotated[str, OneOf(GATE_SCOPES)] = "pooled"
    tau: Positive = 0.001


@dataclass(frozen=True)
class Rate:
    """The fraction of the active weights that an update prunes.

    Attributes:
        prune_rate: a number in [0, 1], where annealing starts, or a whole schedule
            (`{"name": "cosine", "start": 0.7, "end": 0.0}`).
        anneal: "cosine", "linear" or "constant"; of no effect beside a whole schedule.
        prune_rate_end: where annealing ends; 0.005 as in the original.
    """

    prune_rate: Share | Mapping[str, Json] = 0.5
    anneal: Annotated[str, OneOf(ANNEALS)] = "cosine"
    prune_rate_end: Share = 0.005


@dataclass(frozen=True)
class Regrowth:
    """What a new weight starts with.

    Attributes:
        regrow_excludes_just_pruned: a weight pruned in this update cannot come back in it.
        regrow_init: "zero", "keep" (a weight that comes back in the same update keeps its value) or
            "small_random" (normal, standard deviation a tenth of the root mean square of the active weights).
        state_at_growth: optimizer buffers of a new weight: "reset" to 0; "keep_returned" spares weights that
            come back in the same update; "keep" never touches buffers, so absent weights gather momentum.
        momentum_beta: decay of the running mean of dense gradients, in [0, 1).
    """

    regrow_excludes_just_pruned: bool = True
    regrow_init: Annotated[str, OneOf(REGROW_INITS)] = "zero"
    state_at_growth: Annotated[str, OneOf(STATES_AT_GROWTH)] = "reset"
    momentum_beta: DropRate = 0.9


@dataclass(frozen=True)
class Updates:
    """When the masks change.

    Attributes:
        every: epochs or steps between updates; 0 means never.
        unit: "epoch" or "step".
        start: fraction of the run before which nothing changes.
        stop: fraction of the run after which nothing changes; annealing ends there too.
        last: also update at the very end, where it cannot help any more.
        at_switch: also update at the end of the epoch in which averaging starts; of effect with unit "epoch".
    """

    every: Count = 1
    unit: Annotated[str, OneOf(UNITS)] = "epoch"
    start: Share = 0.0
    stop: Share = 1.0
    last: bool = False
    at_switch: bool = True


@dataclass(frozen=True)
class Settings:
    """All of them together."""

    tensors: Tensors
    rules: Rules = Rules()
    rate: Rate = Rate()
    regrowth: Regrowth = Regrowth()
    updates: Updates = Updates()


# What the published code of Selfish-RNN does where this library does otherwise, and it changes results.
FAITHFUL: dict[str, Json] = {
    "exact": False,
    "regrow_excludes_just_pruned": False,
    "regrow_init": "keep",
    "state_at_growth": "keep_returned",
    "update": {"last": True, "at_switch": False},
}

GROUPS = (Tensors, Rules, Rate, Regrowth)


def accepted() -> list[str]:
    """Every setting that users may write, in order.

    >>> accepted()[:3]
    ['density', 'sparsity', 'include']
    """
    names = [f.name for group in GROUPS for f in dataclasses.fields(group)]
    return [names[0], "sparsity", *names[1:], "update", "faithful"]


def parse(given: Mapping[str, Json], defaults: Mapping[str, Json] | None = None) -> Settings:
    """Sort flat settings into their groups and check them.

    Args:
        given: what the user wrote.
        defaults: what a preset sets; `given` wins, and `update` is merged key by key.

    Raises:
        InputError: an unknown setting or value, no density, or density and sparsity together.

    Example:
        >>> parse({"sparsity": 0.75, "update": {"every": 2}}).tensors.density
        0.25
    """
    given = dict(given)
    check_names("sparsity", given, accepted())
    flat = _density_only(given)
    faithful = flat.pop("faithful", False)
    check_value("faithful", faithful, bool)
    layers = [defaults or {}, FAITHFUL if faithful else {}, flat]
    update: dict[str, Json] = {}
    merged: dict[str, Json] = {}
    for layer in layers:
        check_value("update", layer.get("update", {}), Mapping[str, Json])
        update |= layer.get("update", {})
        merged |= {key: value for key, value in layer.items() if key != "update"}
    return Settings(
        tensors=_build(Tensors, merged),
        rules=_build(Rules, merged),
        rate=_build(Rate, merged),
        regrowth=_build(Regrowth, merged),
        updates=_updates(update),
    )


def _density_only(given: dict[str, Json]) -> dict[str, Json]:
    if ("density" in given) == ("sparsity" in given):
        both = "both" if "density" in given else "neither"
        raise InputError(f"{both} of density and sparsity given; give one (density = 1 - sparsity).")
    if "sparsity" in given:
        sparsity = given.pop("sparsity")
        check_value("sparsity", sparsity, DropRate)
        given["density"] = 1 - sparsity
    return given


def _build(group: type[Group], merged: Mapping[str, Json]) -> Group:
    hints = typing.get_type_hints(group, include_extras=True)
    mine = {name: merged[name] for name in hints if name in merged}
    for key, value in mine.items():
        check_value(key, value, hints[key])
    return group(**mine)


def _updates(given: Mapping[str, Json]) -> Updates:
    check_names("update", given, [f.name for f in dataclasses.fields(Updates)])
    hints = typing.get_type_hints(Updates, include_extras=True)
    for key, value in given.items():
        check_value(f"update.{key}", value, hints[key])
    updates = Updates(**given)
    if updates.start > updates.stop:
        raise InputError(
            f"update.start is {updates.start} and update.stop {updates.stop}; needed: start <= stop."
        )
    return updates
