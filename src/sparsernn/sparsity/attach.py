"""Dynamic sparse training in a loop of one's own: two lines, on any torch module."""

import dataclasses
import warnings
from typing import Literal, TypeVar, overload

from torch import nn
from torch.nn.parameter import is_lazy

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_known
from sparsernn.core.limits import Size
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.sparsity.dynamic.dense_to_sparse import DenseToSparse
from sparsernn.sparsity.dynamic.engine import DynamicSparse
from sparsernn.sparsity.dynamic.engine_settings import Settings, parse
from sparsernn.sparsity.dynamic.update_times import PLANNED_STEPS, Length
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.penalties.penalty import Penalty
from sparsernn.sparsity.presets import DEFAULTS, PENALTIES, PRUNED_ON_THE_WAY, parse_pruned
from sparsernn.sparsity.sparsifier import Sparsifier

S = TypeVar("S", bound=Sparsifier)

# Epochs of a run whose epochs are not known: the published LSTM run has 100.
PLANNED_EPOCHS = 100


@overload
def sparsify(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    method: Literal["iss", "l1", "together"],
    attach: bool = True,
    **settings: Json,
) -> Penalty: ...


@overload
def sparsify(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    method: str = "selfish",
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    manual_epochs: bool = False,
    attach: bool = True,
    seed: int = 0,
    **settings: Json,
) -> DynamicSparse: ...


def sparsify(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    method: str = "selfish",
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    manual_epochs: bool = False,
    attach: bool = True,
    seed: int = 0,
    **settings: Json,
) -> DynamicSparse | Penalty:
    """Make the weights of a model sparse, and keep them so in a training loop of one's own.

    Masks are drawn and applied at once. Then the optimizer itself calls the engine after each of its
    steps; nothing else has to be written. Methods that rewire "after every epoch" do so every
    `steps_per_epoch` steps. Penalties ("iss", "l1") add their gradient just before the optimizer's step; a loop that
    clips calls `sparsifier.after_backward()` before it does, so that they are part of what is clipped.

    Args:
        model: any module; nothing is registered on it, so copying, pickling and its `state_dict` work as
            before.
        optimizer: any torch optimizer that holds the model's parameters, or a list of several that share them; a step
            is counted when the first of them steps. A wrapper that keeps its optimizer as `optimizer` and calls its
            step counts as that. None: weights only, and the loop calls `sparsifier.step()` after
            each optimizer step.
        method: "selfish", "set", "rigl", "snfs", "dsr", "static", "hyperpruning" or "dynamic"; "gradual", "one_shot"
            or "rewind" (dense at first, see `DenseToSparse`); "iss" (group lasso over hidden units, see
            `group_lasso`), "l1" (see `L1`) or "together" (several, see `Together`).
        total_steps: optimizer steps of the whole run. Unknown: 100 epochs if `steps_per_epoch` is known, else
            10,000 steps; afterwards the masks stay as they are.
        steps_per_epoch: optimizer steps of one epoch. Unknown: a hundredth of `total_steps`.
        manual_epochs: the loop calls `sparsifier.end_epoch()` itself, and updates per epoch happen there.
        attach: False registers no hook: the loop calls `sparsifier.step()` after each optimizer step.
        seed: of the masks.
        **settings: see docs/engine.md; `density` or `sparsity` is required. Of penalties see docs/iss.md; `strength`
            is required.

    Returns:
        The engine, or the `Penalty`: `masks()`, `summary()`, `reports` (one for each mask update), `state_dict()`.

    Raises:
        InputError: an unknown method or setting, an impossible value, an optimizer that does not hold what is to be
            sparse or has a sparsifier for it already, a weight that is computed in a way that loses zeros,
            that has no shape yet, or that is divided among processes (FSDP2).

    Warns:
        UserWarning: nothing would ever happen, such as an update every 100 steps in a run of 40.

    Example:
        >>> import torch
        >>> model = nn.LSTM(8, 16)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> sparsifier = sparsify(model, optimizer, method="selfish", density=0.25, total_steps=1000)
        >>> loss = model(torch.ones(5, 2, 8))[0].square().mean()
        >>> loss.backward()
        >>> optimizer.step()
        >>> sparsifier.step_count, float((model.weight_hh_l0 != 0).float().mean())
        (1, 0.25)
    """
    _check_whole(model)
    check_value("seed", seed, int)
    if method in PENALTIES:
        return _penalty(model, optimizer, {"name": method, **settings}, attach)
    check_known("method", method, sorted({*DEFAULTS, *PRUNED_ON_THE_WAY, *PENALTIES}))
    from_dense = method in PRUNED_ON_THE_WAY
    parsed = parse_pruned(method, settings) if from_dense else parse(settings, DEFAULTS[method])
    length = _known_length(total_steps, steps_per_epoch)
    if not manual_epochs:
        length, parsed = _planned(length, steps_per_epoch, parsed)
    if from_dense:
        how = PRUNED_ON_THE_WAY[method][1]
        return _attached(DenseToSparse(model, parsed, optimizer, length=length, seed=seed, **how), attach)
    return _attached(DynamicSparse(model, parsed, optimizer, length=length, seed=seed), attach)


def _check_whole(model: nn.Module) -> None:
    """FSDP2 keeps a piece of each parameter on every process, which says so by its mesh of devices."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"the parameter '{name}' has no shape yet; call the model once before it is made sparse."
            )
        if hasattr(parameter, "device_mesh"):
            raise InputError(
                f"the parameter '{name}' is divided among processes (a {type(parameter).__name__}, as FSDP2 makes "
                "them), and masks need whole tensors; use DistributedDataParallel, and sparsify the module inside it."
            )


def _penalty(model: nn.Module, optimizer: Optimizers, spec: dict[str, Json], attach: bool) -> Penalty:
    penalty: Penalty = make("method", PENALTIES, spec, model=model, optimizer=optimizer)
    penalty.check_owned(optimizer)
    return _attached(penalty, attach)


def _attached(sparsifier: S, attach: bool) -> S:
    for note in sparsifier.notes():
        warnings.warn(note, stacklevel=3)
    if sparsifier.optimizers and attach:
        sparsifier.attach()
    return sparsifier


def _known_length(total_steps: int | None, steps_per_epoch: int | None) -> Length:
    for what, value in (("total_steps", total_steps), ("steps_per_epoch", steps_per_epoch)):
        check_value(what, value, Size | None)
    epochs = -(-total_steps // steps_per_epoch) if total_steps and steps_per_epoch else None
    return Length(total_steps, epochs)


def _planned(length: Length, steps_per_epoch: int | None, settings: Settings) -> tuple[Length, Settings]:
    """Fill in what is not known about the run, and turn epochs into steps."""
    total = length.total_steps or (PLANNED_EPOCHS * steps_per_epoch if steps_per_epoch else PLANNED_STEPS)
    epoch = steps_per_epoch or max(1, total // PLANNED_EPOCHS)
    updates = settings.updates
    if updates.unit == "epoch":
        updates = dataclasses.replace(updates, unit="step", every=updates.every * epoch)
    return Length(total), dataclasses.replace(settings, updates=updates)
