"""How many weights of a model exist, counted under masks."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sparsernn.core.plain import Json
from sparsernn.sparsity.dynamic.selection import count_true
from sparsernn.structure.gates import GateBlock, gate_blocks


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


def summarize(model: nn.Module | None, masks: Mapping[str, Tensor]) -> dict[str, Json]:
    """Count the weights of a model under masks.

    Args:
        model: the model; None counts only what is masked.
        masks: parameter name -> bool mask.

    Returns:
        `tensors`: name -> shape, active, numel, density, gates ({name: density}); and the totals `masked_active`,
        `masked_total`, `masked_density`, `masked_sparsity`, `parameters_total`, `parameters_active`,
        `model_density`, `model_sparsity`; and `stray`, how many weights are not 0 although their mask says that they
        do not exist (`stray` of each tensor says where): 0 unless something other than the optimizer wrote into them.
        Stray weights count as active. Tied weights count once; what carries no mask counts as active.

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 2)
        >>> _ = model.weight.data.copy_(torch.eye(2, 4))
        >>> total = summarize(model, {"weight": torch.eye(2, 4, dtype=torch.bool)})
        >>> total["masked_active"], total["masked_density"], total["parameters_active"], total["stray"]
        (2, 0.25, 4, 0)
    """
    gates = gate_blocks(model) if model is not None else {}
    weights = dict(model.named_parameters()) if model is not None else {}
    tensors = {name: _entry(mask, gates.get(name, ()), weights.get(name)) for name, mask in masks.items()}
    active, masked = (sum(t[key] for t in tensors.values()) for key in ("active", "numel"))
    total = sum(masks.get(name, p).numel() for name, p in weights.items()) if model is not None else masked
    present = total - masked + active
    masked_density, model_density = _ratio(active, masked), _ratio(present, total)
    return {
        "tensors": tensors,
        "masked_active": active,
        "masked_total": masked,
        "masked_density": masked_density,
        "masked_sparsity": 1 - masked_density,
        "stray": sum(entry["stray"] for entry in tensors.values()),
        "parameters_total": total,
        "parameters_active": present,
        "model_density": model_density,
        "model_sparsity": 1 - model_density,
    }


def _entry(mask: Tensor, gates: Sequence[GateBlock], weight: Tensor | None) -> dict[str, Json]:
    known = count_true([mask])
    if weight is not None and weight.shape == mask.shape:
        mask = mask | (weight.detach() != 0).to(mask.device)
    active = count_true([mask])
    return {
        "shape": list(mask.shape),
        "active": active,
        "numel": mask.numel(),
        "density": _ratio(active, mask.numel()),
        "stray": active - known,
        "gates": gate_densities(mask, gates),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
