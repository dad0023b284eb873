"""Networks that begin dense and are pruned by magnitude while they train; nothing grows back."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.sparsity.dynamic.budget import water_fill
from sparsernn.sparsity.dynamic.engine import DynamicSparse
from sparsernn.sparsity.dynamic.engine_settings import Settings, Updates
from sparsernn.sparsity.dynamic.first_masks import initial_counts
from sparsernn.sparsity.dynamic.mask_update import Change
from sparsernn.sparsity.dynamic.masked_tensors import told_fallback
from sparsernn.sparsity.dynamic.pools import Pool
from sparsernn.sparsity.dynamic.pruning import PRUNE
from sparsernn.sparsity.dynamic.selection import blank, count_true
from sparsernn.sparsity.dynamic.update_record import statistics, totals
from sparsernn.sparsity.dynamic.update_times import PLANNED_STEPS, Length, is_due
from sparsernn.sparsity.optimizer_state import Optimizers, rewired
from sparsernn.sparsity.saved_state import check_tensors, refuse
from sparsernn.structure.weight_places import ChoosesProducts

UNKNOWN_EPOCHS = 100
"""Epochs of a run that does not say how many it has."""


def sparsity_at(progress: float, final: float, first: float = 0.0) -> float:
    """Fraction removed after a part of the way: s_f + (s_i - s_f) (1 - progress)^3.

    Args:
        progress: (t - t_0) / (n dt), in [0, 1].
        final: s_f.
        first: s_i.

    Example:
        >>> [round(sparsity_at(k / 4, 0.8), 6) for k in range(5)]
        [0.0, 0.4625, 0.7, 0.7875, 0.8]

    Source: M. Zhu and S. Gupta, "To Prune, or Not to Prune", 2017, arXiv:1710.01878.
    """
    return final + (first - final) * (1 - progress) ** 3


def update_times(updates: Updates, length: Length) -> list[int]:
    """Every epoch or step at which `Updates` says that an update is due, in a run of known length.

    >>> update_times(Updates(every=2, stop=0.75), Length(epochs=10))
    [2, 4, 6]
    """
    step = updates.unit == "step"
    total = length.total_steps if step else length.epochs
    counts = range(updates.every, (total or 0) + 1, updates.every) if updates.every else ()
    return [n for n in counts if is_due(updates, length, updates.unit, *((0, n) if step else (n, 0)))]


class DenseToSparse(DynamicSparse):
    """Dense at first; at its times the smallest weights go, until `density` is reached, and none comes back.

    With `gradual=True` at every update between `update.start` and `update.stop`, along the cubic schedule; else all
    at once, at the first one from `update.stop` on. With `rewinds=True` all parameters of the model then become what
    they were at the first update time from `update.start` on (at 0: before the first step), and the optimizer's
    buffers begin anew; the masks stay.

    Who competes with whom is what `gate_scope` says, and all tensors compete with each other under
    `prune="global_magnitude"`; how many each tensor keeps in the end is what `init` says of first masks elsewhere.

    Args:
        model: its parameters are masked in place.
        settings: see `sparsity.settings.parse`; those about growth have no effect.
        optimizer: whose buffers follow the masks.
        length: of the run, of which start and stop are fractions; 10,000 steps or 100 epochs if not known.
        seed: of the draws among equal weights.
        gradual, rewinds: see above.

    Attributes:
        times: epochs or steps at which something is removed, ended ones counted.
        keep_at: when weights are kept to rewind to; None where nothing is.

    Raises:
        InputError: weights would be kept no earlier than they are pruned.

    Example:
        >>> from sparsernn.sparsity.dynamic.engine_settings import parse
        >>> layer = nn.Linear(10, 10)
        >>> settings = parse({"density": 0.2, "update": {"stop": 0.75}})
        >>> sparse = DenseToSparse(layer, settings, length=Length(epochs=6), gradual=True)
        >>> sparse.times, [len(sparse.end_epoch()) and sparse.summary()["masked_active"] for _ in range(5)]
        ([1, 2, 3, 4], [54, 30, 21, 20, 0])
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        optimizer: Optimizers = None,
        *,
        length: Length | None = None,
        seed: int = 0,
        gradual: bool = False,
        rewinds: bool = False,
    ) -> None:
        known, updates = length or Length(), settings.updates
        if updates.unit == "step" and known.total_steps is None:
            known = Length(PLANNED_STEPS, known.epochs)
        if updates.unit == "epoch" and known.epochs is None:
            known = Length(known.total_steps, UNKNOWN_EPOCHS)
        self.times = update_times(updates if gradual else _from(updates, updates.stop), known)
        self.keep_at = None
        if not gradual:
            self.times = self.times[:1]
            self.keep_at = _keep_time(updates, known, self.times) if rewinds else None
        self._stage = 0
        self._asked = False
        self._kept: dict[str, Tensor] = {}
        super().__init__(model, settings, optimizer, length=known, seed=seed)

    @property
    def stage(self) -> int:
        """How often weights were removed."""
        return self._stage

    def after_step(self) -> list[dict[str, Json]]:
        """Project weights and optimizer buffers; prune, or keep the weights, where it is time."""
        told = self._told_products()
        events = super().after_step()
        self._keep_if_due("step", self.step_count)
        return [*told, *events]

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """Count the epoch; prune, or keep the weights, where it is time."""
        events = super().end_epoch(averaging_starts)
        self._keep_if_due("epoch", self.epoch_count)
        return events

    def notes(self) -> list[str]:
        """Tensors without blocks; that nothing is ever removed, where no time falls into the run."""
        updates, length = self.settings.updates, self.length
        fallen = told_fallback(self.tensors, self.settings.tensors)
        if self.times:
            return fallen
        total = length.epochs if updates.unit == "epoch" else length.total_steps
        return [
            *fallen,
            f"nothing will ever be removed: of every {updates.every} {updates.unit}s of a run of {total}, none falls "
            f"where it may (update.start is {updates.start}, update.stop {updates.stop}); lower update.every, or "
            "update.stop.",
        ]

    def update(self) -> dict[str, Json]:
        """Prune now as at the next time, due or not, and return the report (the event "rewire")."""
        began = time.perf_counter()
        active = sum(count_true([t.mask]) for t in self.tensors)
        done = min(1.0, (self.update_count + 1) / max(1, len(self.times)))
        with self._storage.lent():
            change = self._prune(done)
        tensors = {t.name: self._cut(change, number) for number, t in enumerate(self.tensors)}
        self._tell()
        gone = sum(row["pruned"] for row in tensors.values())
        self.update_count += 1
        self._stage += gone > 0
        if done >= 1:
            self._settle()
        report = {
            "event": "rewire",
            "update": self.update_count,
            "step": self.step_count,
            "prune_rate": gone / active if active else 0.0,
            **totals(tensors),
            **({"rewound": self._rewind()} if gone and self.keep_at is not None else {}),
            "seconds": time.perf_counter() - began,
            "tensors": tensors,
        }
        self.reports.append(report)
        return report

    def condensed(self, apart_from: Sequence[nn.Parameter] = ()) -> AbstractContextManager[None]:
        """As of every engine, from the time on when `density` is reached; until then everything is dense."""
        self._storage.waits = self.update_count < max(1, len(self.times))
        return super().condensed(apart_from)

    def state_dict(self) -> dict[str, Json]:
        """As of every engine, and the weights that are kept to rewind to."""
        kept = {name: value.clone() for name, value in self._kept.items()}
        return {**super().state_dict(), "stage": self._stage, "kept": kept, "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from `state_dict`.

        Raises:
            InputError: the state is of another method, or of other tensors.
        """
        super().load_state_dict(state)
        own = self._parameters()
        self._stage = int(state["stage"])
        self._asked = bool(state.get("asked", False))  # older states have none
        self._storage.waits = self.update_count < max(1, len(self.times))
        self._kept = {name: value.to(own[name].device).clone() for name, value in state["kept"].items()}

    def _check_state(self, state: Mapping[str, Json]) -> None:
        super()._check_state(state)
        kept, own = state["kept"], self._parameters()
        check_tensors("kept", kept, {})
        if odd := sorted(kept.keys() - own.keys()):
            refuse(f"'kept' has '{odd[0]}'")
        check_tensors("kept", kept, {name: own[name] for name in kept})

    def _settle(self) -> None:
        """The density is what it stays: it can be stored, and what multiplies faster is found out anew."""
        self._storage.waits = False
        self._asked = True
        for places in self._places.values():
            places.settle()

    def _told_products(self) -> list[dict[str, Json]]:
        """In the step after that: which products `product: auto` has chosen for the final density."""
        if not self._asked or self.model is None:
            return []
        self._asked = False
        named = ((name, m) for name, m in self.model.named_modules() if isinstance(m, ChoosesProducts))
        choices = [(name, choice) for name, m in named if (choice := m.product_choice()) is not None]
        rows = [{"module": name, **choice._asdict()} for name, choice in choices if choice.setting == "auto"]
        return [{"event": "products", "step": self.step_count + 1, "products": rows}] if rows else []

    def _begin(self, seed: int) -> None:
        """Everything is there; how much of it will stay is known."""
        for tensor in self.tensors:
            tensor.mask.fill_(True)
            tensor.ever.fill_(True)
        self._count()
        if self.keep_at == 0:
            self._keep()

    def _count(self) -> None:
        self._final = initial_counts(self.tensors, self.settings.rules)

    def _cut_as(self, state: Mapping[str, Json]) -> None:
        super()._cut_as(state)
        self._count()

    def _due(self, unit: str) -> bool:
        count = self.epoch_count if unit == "epoch" else self.step_count
        return self.settings.updates.unit == unit and count in self.times

    def _keep_if_due(self, unit: str, count: int) -> None:
        if self.settings.updates.unit == unit and count == self.keep_at:
            self._keep()

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters()) if self.model is not None else {}

    def _keep(self) -> None:
        self._kept = {name: p.detach().clone() for name, p in self._parameters().items()}

    @torch.no_grad()
    def _rewind(self) -> bool:
        """Go back to the weights that are kept, if there are any, and let the optimizer begin anew."""
        masks, kept = self.masks(), self._kept
        for name, parameter in self._parameters().items() if kept else ():
            parameter.copy_(kept[name])
            everywhere = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
            rewired(self.optimizers, parameter, everywhere, everywhere)
        self._kept = {}
        self.project()
        return bool(kept)

    def _prune(self, progress: float) -> Change:
        """The smallest weights of each pool beyond what it may keep by now."""
        masks = [t.grid_mask() for t in self.tensors]
        weights = [t.values(t.parameter) for t in self.tensors]
        removed = [blank(mask) for mask in masks]
        rule, wanted = PRUNE[self.settings.rules.prune], self._wanted(progress)
        for pool, keep in zip(self._pools.prune, wanted, strict=True):
            present = [piece.of(masks).contiguous() for piece in pool]
            values = [piece.of(weights).contiguous() for piece in pool]
            parts = rule(values, present, max(0, count_true(present) - keep), self.generator)
            for piece, part in zip(pool, parts, strict=True):
                piece.of(removed).copy_(part)
        return Change(removed, [blank(mask) for mask in masks], 0)

    def _wanted(self, progress: float) -> list[int]:
        """Cells that each pool keeps after a part of the way; the parts of a tensor share what it has."""
        pools: Sequence[Pool] = self._pools.prune
        shares = [[0] * len(pool) for pool in pools]
        for number, final in enumerate(self._final):
            for area, kept in final.items():
                places = [
                    (p, k)
                    for p, pool in enumerate(pools)
                    for k, at in enumerate(pool)
                    if at.tensor == number and at.cells.area == area
                ]
                sizes = [pools[p][k].size for p, k in places]
                gone = sparsity_at(progress, 1 - kept / sum(sizes))
                keep = kept if progress >= 1 else round((1 - gone) * sum(sizes))
                for (p, k), share in zip(places, water_fill(keep, sizes, sizes), strict=True):
                    shares[p][k] = share
        return [sum(parts) for parts in shares]

    def _cut(self, change: Change, number: int) -> dict[str, Json]:
        tensor = self.tensors[number]
        self._apply(tensor, change, number)
        return statistics(tensor, count_true([tensor.expand(change.removed[number])]), 0, 0)


def _from(updates: Updates, start: float) -> Updates:
    """The same times, but from a fraction of the run to its end."""
    return Updates(updates.every, updates.unit, start, 1.0, updates.last)


def _keep_time(updates: Updates, length: Length, pruned: Sequence[int]) -> int | None:
    """When the weights are kept that are rewound to."""
    if updates.start == 0:
        return 0
    at = update_times(_from(updates, updates.start), length)[:1]
    if pruned and (not at or at[0] >= pruned[0]):
        raise InputError(
            f"update.start is {updates.start} and update.stop {updates.stop}, which is the same {updates.unit} of "
            "this run; weights are kept at start and pruned at stop, so stop must come later."
        )
    return at[0] if at else None
