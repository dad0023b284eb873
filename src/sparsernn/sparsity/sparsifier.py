"""The contract of everything that decides which weights exist, its dense null member, and composition."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.selection import count_true
from sparsernn.structure.gates import GateBlock, gate_blocks


class Sparsifier:
    """A part of the training loop that may add a penalty, and remove or revive weights. This one does
    nothing.

    The loop calls, in this order: `penalty` before the backward pass; `after_backward` between it and clipping;
    `after_step` right after the optimizer's step, while `.grad` is still there; `end_epoch` after evaluation,
    checkpoint and averaging trigger; `finalize` once before testing. Subclasses override what they need.

    Args:
        model: what `summary` counts; without it the summary is empty.

    Example:
        >>> dense = Sparsifier(nn.Linear(4, 3))
        >>> dense.after_step(), dense.masks(), dense.summary()["model_density"]
        ([], {}, 1.0)
    """

    in_zeros: ClassVar[bool] = False
    """Whether what is absent is known by exact zeros among the weights, and not by masks."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model

    def penalty(self) -> Tensor | float:
        """What is added to the loss, a scalar; 0.0 by default."""
        return 0.0

    def after_backward(self) -> None:
        """Called between the backward pass and clipping: add to `.grad` what is known without a graph."""

    def after_step(self) -> list[dict[str, Any]]:
        """Called after every optimizer step; returns the events to log (mask updates, for example)."""
        return []

    def end_epoch(self) -> list[dict[str, Any]]:
        """Called after every epoch; returns the events to log."""
        return []

    def finalize(self) -> None:
        """Called once after training: leave hard zeros behind."""

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool mask, live: the tensors change in place when masks do."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What is sparse, and how much, as plain data (see `summarize`)."""
        return summarize(self.model, self.masks())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as nested dicts of tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class Chain(Sparsifier):
    """Several sparsifiers one after another: penalties add up, events are joined.

    Args:
        members: in the order in which they are called; no two of them may mask the same tensor.

    Example:
        >>> Chain([Sparsifier(), Sparsifier()]).penalty()
        0.0
    """

    def __init__(self, members: Sequence[Sparsifier]) -> None:
        super().__init__(next((m.model for m in members if m.model is not None), None))
        self.members = list(members)
        self.masks()

    def penalty(self) -> Tensor | float:
        """The sum of the members' penalties."""
        return sum((member.penalty() for member in self.members), 0.0)

    def after_backward(self) -> None:
        """All members' gradients."""
        for member in self.members:
            member.after_backward()

    def after_step(self) -> list[dict[str, Any]]:
        """All members' events."""
        return [event for member in self.members for event in member.after_step()]

    def end_epoch(self) -> list[dict[str, Any]]:
        """All members' events."""
        return [event for member in self.members for event in member.end_epoch()]

    def finalize(self) -> None:
        """Finalize every member."""
        for member in self.members:
            member.finalize()

    def masks(self) -> dict[str, Tensor]:
        """All members' masks.

        Raises:
            InputError: two members mask the same tensor.
        """
        joined: dict[str, Tensor] = {}
        for member in self.members:
            masks = member.masks()
            if twice := joined.keys() & masks.keys():
                raise InputError(f"two sparsifiers mask '{min(twice)}'; exclude it from one of them.")
            joined |= masks
        return joined

    def state_dict(self) -> dict[str, Any]:
        """One entry for each member, keyed by its position."""
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hand every member its part."""
        if len(state) != len(self.members):
            raise InputError(f"the state holds {len(state)} sparsifiers; this chain has {len(self.members)}.")
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])


def gate_densities(mask: Tensor, gates: Sequence[GateBlock]) -> dict[str, float]:
    """Gate name -> density of its rows (a gate may own several blocks of rows).

    >>> from torch import tensor
    >>> gates = [GateBlock("i", 0, 1), GateBlock("f", 1, 2)]
    >>> gate_densities(tensor([[True, True], [True, False]]), gates)
    {'i': 1.0, 'f': 0.5}
    """
    active: dict[str, int] = {}
    total: dict[str, int] = {}
    for gate in gates:
        rows = mask[gate.start : gate.stop]
        active[gate.name] = active.get(gate.name, 0) + count_true([rows])
        total[gate.name] = total.get(gate.name, 0) + rows.numel()
    return {name: _ratio(active[name], total[name]) for name in active}


def summarize(model: nn.Module | None, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Count the weights of a model under masks.

    Args:
        model: the model; None counts only what is masked.
        masks: parameter name -> bool mask.

    Returns:
        `tensors`: name -> shape, active, numel, density, gates ({name: density}); and the totals
            `masked_active`,
        `masked_total`, `masked_density`, `masked_sparsity`, `parameters_total`, `parameters_active`,
        `model_density`, `model_sparsity`. Tied weights count once; what carries no mask counts as active.

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 2)
        >>> total = summarize(model, {"weight": torch.eye(2, 4, dtype=torch.bool)})
        >>> total["masked_active"], total["masked_density"], total["parameters_active"]
        (2, 0.25, 4)
    """
    gates = gate_blocks(model) if model is not None else {}
    tensors = {name: _entry(mask, gates.get(name, ())) for name, mask in masks.items()}
    active, masked = (sum(t[key] for t in tensors.values()) for key in ("active", "numel"))
    total = sum(p.numel() for p in model.parameters()) if model is not None else masked
    present = total - masked + active
    masked_density, model_density = _ratio(active, masked), _ratio(present, total)
    return {
        "tensors": tensors,
        "masked_active": active,
        "masked_total": masked,
        "masked_density": masked_density,
        "masked_sparsity": 1 - masked_density,
        "parameters_total": total,
        "parameters_active": present,
        "model_density": model_density,
        "model_sparsity": 1 - model_density,
    }


def _entry(mask: Tensor, gates: Sequence[GateBlock]) -> dict[str, Any]:
    active = count_true([mask])
    return {
        "shape": list(mask.shape),
        "active": active,
        "numel": mask.numel(),
        "density": _ratio(active, mask.numel()),
        "gates": gate_densities(mask, gates),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
