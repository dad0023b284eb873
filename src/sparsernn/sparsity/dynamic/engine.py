"""Dynamic sparse training: masks that move while the number of weights stays."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.sparsity.attachment import check_gradients
from sparsernn.sparsity.dynamic.budget import update_tau
from sparsernn.sparsity.dynamic.engine_settings import Settings
from sparsernn.sparsity.dynamic.first_masks import fan_in_scale, initial_masks
from sparsernn.sparsity.dynamic.growth import GROW
from sparsernn.sparsity.dynamic.mask_update import Change, Situation, rewire
from sparsernn.sparsity.dynamic.masked_tensors import (
    MaskedTensor,
    check_one_area,
    choose_tensors,
    told_fallback,
)
from sparsernn.sparsity.dynamic.pools import Pools, make_pools
from sparsernn.sparsity.dynamic.saved_masks import check_grids, check_same_tensors, cut_as_saved, saved_grids
from sparsernn.sparsity.dynamic.selection import count_true
from sparsernn.sparsity.dynamic.update_record import statistics, totals
from sparsernn.sparsity.dynamic.update_times import Length, is_due, prune_schedule, told_never
from sparsernn.sparsity.dynamic.value_storage import ValueStorage
from sparsernn.sparsity.optimizer_state import Optimizers, Rewirable, project, rewired
from sparsernn.sparsity.projection import zero_absent
from sparsernn.sparsity.saved_state import check_keys, check_tensors, refuse
from sparsernn.sparsity.sparsifier import Sparsifier
from sparsernn.structure.gates import cell_groups
from sparsernn.structure.weight_places import Needs, Stored, WeightPlaces, hand_out, own


class DynamicSparse(Sparsifier):
    """Masks that are drawn once and then rewired: prune some active weights, grow as many empty positions.

    Masks are projections: weights (and optimizer buffers) are multiplied by them after every optimizer step.
    Gradients stay dense, so clipping and growth rules see all of them; a layer with `product: sparse` takes those of
    existing weights alone, and dense ones for the rules when they look at them. After every call of `after_step` and
    `end_epoch` each absent weight is exactly 0 and the number of active weights is exactly what it was at the
    start: blocks take the place of blocks that are equally large.

    Args:
        model: its parameters are masked in place; no hook, buffer or parametrization is put on it.
        settings: see `sparsity.settings.parse`.
        optimizer: whose buffers follow the masks; None masks weights only.
        length: of the run, for annealing and for leaving out an update at the very end.
        seed: of the streams that first masks and growth draw from; torch's global generator is not used.

    Attributes:
        reports: the report of every mask update since construction.
        step_count: optimizer steps so far.
        epoch_count: ended epochs so far.

    Example:
        >>> from sparsernn.sparsity.dynamic.engine_settings import parse
        >>> model = nn.LSTM(8, 8)
        >>> sparse = DynamicSparse(model, parse({"density": 0.25}))
        >>> sparse.summary()["masked_active"], sparse.end_epoch()[0]["tensors"]["weight_hh_l0"]["pruned"]
        (128, 32)

    Source: S. Liu et al., "Selfish Sparse RNN Training", 2021, arXiv:2101.09048, whose engine this generalises; the
    other presets name their own.

    Differs from the original: docs/engine.md lists every difference; `faithful=True` undoes those that matter.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        optimizer: Optimizers = None,
        *,
        length: Length | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer)
        self.settings = settings
        self.length = length or Length()
        self.generator = stream("growth", seed)  # and the ties of pruning
        self.step_count = self.epoch_count = self.update_count = 0
        self.tau = settings.rules.tau
        self.prune_rate = prune_schedule(settings, self.length)
        self.tensors = choose_tensors(model, settings.tensors)
        self.check_owned(optimizer)
        self._pools = self._make_pools(model)
        self._places = {t.name: WeightPlaces(t.mask, self._needs()) for t in self.tensors}
        hand_out(model, [(t.parameter, self._places[t.name]) for t in self.tensors])
        self._storage = ValueStorage(self.tensors, self._places)
        self._gradients: dict[str, Tensor] = {}
        self._momentum = self._zero_momentum()
        self.reports: list[dict[str, Json]] = []
        self._begin(seed)

    def __setstate__(self, state: dict[str, Json]) -> None:
        self.__dict__.update(state)
        own(self._places.values())

    def after_step(self) -> list[dict[str, Json]]:
        """Project weights and optimizer buffers; update the masks if one is due at this step."""
        self.step_count += 1
        due = self._due("step")
        self._observe(due)
        self.project()
        reports = [self.update()] if due else []
        self._storage.settle(self.optimizers)
        self._look_ahead()
        return reports

    def step(self) -> list[dict[str, Json]]:
        """The name of `after_step` in a loop of one's own."""
        check_gradients(self.dense_gradients())
        return self.after_step()

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """Count the epoch; update the masks if one is due at its end."""
        self.epoch_count += 1
        held = averaging_starts and not self.settings.updates.at_switch
        return [self.update()] if self._due("epoch") and not held else []

    def dense_gradients(self) -> list[Tensor]:
        """Those that layers with a sparse product have left for the next mask update."""
        return [places.dense for places in self._places.values() if places.dense is not None]

    def forget_gradients(self) -> None:
        """Gradients of a step that does not happen are not looked at."""
        for places in self._places.values():
            places.expect(places.wanted)

    def finalize(self) -> None:
        """Leave exact zeros behind."""
        self.project()

    def notes(self) -> list[str]:
        """Tensors without blocks, and mask updates that cannot fall into a run of the planned length."""
        fallen = told_fallback(self.tensors, self.settings.tensors)
        return [*fallen, *told_never(self.settings.updates, self.length)]

    def touches(self) -> list[nn.Parameter]:
        """The masked tensors."""
        return [tensor.parameter for tensor in self.tensors]

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool mask, live."""
        return {tensor.name: tensor.mask for tensor in self.tensors}

    def condensed(self, apart_from: Sequence[nn.Parameter] = ()) -> AbstractContextManager[None]:
        """Inside it, weights that layers with `product` multiply sparsely are kept without the zeros between them.

        Such a parameter is then a vector of its existing values, under its own name, and so are its gradient and the
        optimizer's buffers; as an attribute of its layer, and in the model's `state_dict`, it still is the matrix.
        """
        keeps = self.settings.regrowth.state_at_growth == "keep"  # what belongs to absent weights, too
        if keeps or self.model is None:
            return nullcontext()
        return self._storage.switched_on(self.model, self.optimizers, apart_from)

    def lent(self) -> AbstractContextManager[None]:
        """See `Sparsifier.lent`."""
        return self._storage.lent()

    def layouts(self) -> dict[str, Stored]:
        """See `Sparsifier.layouts`."""
        return dict(self._storage.layouts)

    def project(self) -> None:
        """Zero absent weights and, unless `state_at_growth` is "keep", the optimizer's buffers there."""
        dense = [tensor for tensor in self.tensors if tensor.name not in self._storage.layouts]
        project(
            self.optimizers,
            [tensor.parameter for tensor in dense],
            [tensor.mask for tensor in dense],
            with_buffers=self.settings.regrowth.state_at_growth != "keep",
        )

    def update(self) -> dict[str, Json]:
        """Rewire now, due or not, and return the report (the event "rewire")."""
        began = time.perf_counter()
        rate = self.prune_rate(self.step_count)
        with self._storage.lent():
            change = rewire(self._situation(rate), self.generator)
        if self.settings.rules.prune == "threshold":
            self.tau = update_tau(self.tau, count_true(change.removed), change.expected)  # both in blocks
        tensors = {t.name: self._apply(t, change, i) for i, t in enumerate(self.tensors)}  # uses up `change`
        self._tell()
        self.update_count += 1
        if self.settings.updates.unit == "step":
            self._gradients = {}
        report = {
            "event": "rewire",
            "update": self.update_count,
            "step": self.step_count,
            "prune_rate": rate,
            **totals(tensors),
            "seconds": time.perf_counter() - began,
            "tensors": tensors,
        }
        self.reports.append(report)
        return report

    def state_dict(self) -> dict[str, Json]:
        """Masks, counters, the generator, and what growth rules remember: enough to continue bit for bit."""
        return {
            "masks": {t.name: t.mask.clone() for t in self.tensors},
            "ever": {t.name: t.ever.clone() for t in self.tensors},
            "generator": self.generator.get_state(),
            "counts": {"step": self.step_count, "epoch": self.epoch_count, "update": self.update_count},
            "tau": self.tau,
            "momentum": {name: value.clone() for name, value in self._momentum.items()},
            "gradients": {name: value.clone() for name, value in self._gradients.items()},
            "grids": saved_grids(self.tensors),
        }

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from `state_dict`; the model's and the optimizer's states are loaded by their owners.

        Raises:
            InputError: the state is of another method or of other tensors; nothing has been taken from it then.
        """
        self._check_state(state)
        self._storage.spread(self.optimizers)
        self._cut_as(state)
        for tensor in self.tensors:
            tensor.mask.copy_(state["masks"][tensor.name])
            tensor.ever.copy_(state["ever"][tensor.name])
        self.generator.set_state(state["generator"].cpu())
        counts = state["counts"]
        self.step_count, self.epoch_count = counts["step"], counts["epoch"]
        self.update_count, self.tau = counts["update"], state["tau"]
        for name, value in self._momentum.items():
            value.copy_(state["momentum"][name])
        parameters = {t.name: t.parameter for t in self.tensors}
        gradients = ((n, g) for n, g in state["gradients"].items() if n in parameters)
        self._gradients = {n: g.to(parameters[n].device).clone() for n, g in gradients}
        self._tell()
        self._look_ahead()

    def _check_state(self, state: Mapping[str, Json]) -> None:
        own = self.state_dict()
        check_keys(state, own.keys() - {"grids", "asked"}, more=True)
        check_grids(state.get("grids", {}), self.tensors, self.settings.tensors.block_size)
        for what in ("masks", "ever", "momentum", "gradients"):
            check_tensors(what, state[what], {})
        if bool(state["momentum"]) != bool(own["momentum"]):
            refuse("one of them keeps running means of gradients")
        check_same_tensors(self.tensors, state["masks"])
        for what in ("masks", "ever", "momentum"):
            check_tensors(what, state[what], own[what])
        parameters = {t.name: t.parameter for t in self.tensors}
        check_tensors(
            "gradients", state["gradients"], {n: parameters[n] for n in state["gradients"] if n in parameters}
        )
        check_tensors("generator", {"state": state["generator"]}, {"state": own["generator"]})
        check_keys(state["counts"], own["counts"])
        for name, count in {**state["counts"], "tau": state["tau"]}.items():
            if isinstance(count, bool) or not isinstance(count, int | float):
                refuse(f"'{name}' is {str(count)[:40]!r}")

    def _make_pools(self, model: nn.Module) -> Pools:
        rules = self.settings.rules
        if rules.prune == "set" and not all(t.grid.is_single for t in self.tensors):
            raise InputError("prune=set looks at signs, which blocks do not have; use magnitude with blocks.")
        everything = rules.prune == "global_magnitude"
        if everything or rules.redistribute != "none" or rules.gate_scope == "cell":
            what = "prune=global_magnitude" if everything else f"redistribute={rules.redistribute}"
            check_one_area(self.tensors, "gate_scope=cell" if rules.gate_scope == "cell" else what)
        return make_pools(self.tensors, cell_groups(model), rules.gate_scope, everything)

    def _cut_as(self, state: Mapping[str, Json]) -> None:
        """Blocks as those of a saved state lie."""
        cut_as_saved(state.get("grids", {}), self.tensors, self.settings.tensors.block_size)
        assert self.model is not None
        self._pools = self._make_pools(self.model)

    @torch.no_grad()
    def _begin(self, seed: int) -> None:
        initial_masks(self.tensors, self.settings.rules, stream("masks", seed))
        self.project()
        if self.settings.rules.rescale == "fan_in":
            for tensor in self.tensors:
                tensor.parameter.mul_(fan_in_scale(tensor))
        self._tell()
        self._look_ahead()

    def _needs(self) -> Needs:
        """When the rules look at gradients of weights that do not exist."""
        signal = GROW[self.settings.rules.grow].signal
        if signal == "momentum" or self.settings.rules.redistribute == "momentum":
            return "always"
        if signal == "gradient":
            return "at_updates" if self.settings.updates.unit == "step" else "always"
        return "never"

    def _tell(self) -> None:
        """Who multiplies with existing weights only hears that they are others now."""
        for tensor in self.tensors:
            condensed = tensor.name in self._storage.layouts
            self._places[tensor.name].changed(self._places[tensor.name].mask if condensed else tensor.mask)

    def _look_ahead(self) -> None:
        """Whether the gradients of the next step are going to be looked at."""
        wanted = self._needs() == "at_updates" and is_due(
            self.settings.updates, self.length, "step", self.epoch_count, self.step_count + 1
        )
        for places in self._places.values():
            places.expect(wanted)

    def _zero_momentum(self) -> dict[str, Tensor]:
        rules = self.settings.rules
        wanted = GROW[rules.grow].signal == "momentum" or rules.redistribute == "momentum"
        return {t.name: torch.zeros_like(t.parameter.detach()) for t in self.tensors} if wanted else {}

    def _due(self, unit: str) -> bool:
        return is_due(self.settings.updates, self.length, unit, self.epoch_count, self.step_count)

    @torch.no_grad()
    def _observe(self, due: bool) -> None:
        """Take from the dense gradients what growth rules will need."""
        for tensor in self.tensors if self._momentum else ():
            gradient = tensor.parameter.grad
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                mean = self._momentum[tensor.name] = self._momentum[tensor.name].to(
                    dense
                )  # the model may have moved
                mean.lerp_(dense, 1 - self.settings.regrowth.momentum_beta)
        if GROW[self.settings.rules.grow].signal == "gradient" and (
            due or self.settings.updates.unit == "epoch"
        ):
            self._gradients = self._current_gradients()

    def _situation(self, rate: float) -> Situation:
        rules = self.settings.rules
        frozen = {i for i, t in enumerate(self.tensors) if not t.parameter.requires_grad}  # would only lose
        return Situation(
            pools=self._pools.without(frozen),
            rules=rules,
            excludes=self.settings.regrowth.regrow_excludes_just_pruned,
            rate=rate,
            tau=self.tau,
            weights=[t.values(t.parameter) for t in self.tensors],
            masks=[t.grid_mask() for t in self.tensors],
            signals=self._grids(self._signal()) if GROW[rules.grow].signal != "none" else (),
            momentum=self._grids(self._momentum) if rules.redistribute == "momentum" else (),
        )

    def _signal(self) -> Mapping[str, Tensor]:
        """What the growth rule looks at; gradients are read now if no step has put any aside."""
        if GROW[self.settings.rules.grow].signal != "gradient":
            return self._momentum
        return self._gradients or self._current_gradients()

    def _current_gradients(self) -> dict[str, Tensor]:
        if name := next((name for name, places in self._places.items() if places.partial), None):
            raise InputError(
                f"growth by gradient looks at weights of '{name}' that do not exist, and product: sparse computed no "
                "gradients of them in this step; let updates come when they are due, or use product: dense."
            )
        found = {t.name: self._places[t.name].whole(t.parameter.grad) for t in self.tensors}
        return {name: grad.detach() for name, grad in found.items() if grad is not None}

    def _grids(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        return [t.values(values.get(t.name)) for t in self.tensors]

    @torch.no_grad()
    def _apply(self, tensor: MaskedTensor, change: Change, index: int) -> dict[str, Json]:
        """Put the change of one tensor into mask, weights and optimizer; return its statistics."""
        with self._storage.opened(tensor, self.optimizers):
            return self._write(tensor, change, index)

    def _write(self, tensor: MaskedTensor, change: Change, index: int) -> dict[str, Json]:
        removed, grown = tensor.expand(change.removed[index]), tensor.expand(change.grown[index])
        returned = removed & grown
        counts = [count_true([flags]) for flags in (removed, grown, returned)]
        survivors = tensor.mask.logical_and_(removed.logical_not_())
        keeps = self.settings.regrowth.regrow_init != "zero"
        zero_absent([tensor.parameter], survivors | returned if keeps else survivors)
        tensor.ever.logical_or_(tensor.mask.logical_or_(grown))
        if self.settings.regrowth.regrow_init == "small_random":
            self._randomise(tensor, grown)
        self._reset_state(tensor, grown, returned)
        return statistics(tensor, *counts)

    def _randomise(self, tensor: MaskedTensor, grown: Tensor) -> None:
        """Normal values, a tenth of the root mean square of the tensor's active weights."""
        old = tensor.parameter[tensor.mask & ~grown].float()
        scale = 0.1 * float(old.square().mean().sqrt()) if old.numel() else 0.1
        fresh = torch.randn(int(grown.count_nonzero()), generator=self.generator) * scale
        tensor.parameter[grown] = fresh.to(tensor.parameter)

    def _reset_state(self, tensor: MaskedTensor, grown: Tensor, returned: Tensor) -> None:
        how = self.settings.regrowth.state_at_growth
        reset = {"reset": grown, "keep_returned": grown & ~returned, "keep": torch.zeros_like(grown)}[how]
        if how != "keep" or any(isinstance(optimizer, Rewirable) for optimizer in self.optimizers):
            rewired(self.optimizers, tensor.parameter, tensor.mask, reset)
