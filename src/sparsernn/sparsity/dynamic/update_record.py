"""What a mask update tells about itself."""

from collections.abc import Mapping

from sparsernn.core.plain import Json
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor
from sparsernn.sparsity.dynamic.selection import count_true
from sparsernn.sparsity.weight_counts import gate_densities


def statistics(tensor: MaskedTensor, pruned: int, grown: int, returned: int) -> dict[str, Json]:
    """What one update did to one tensor.

    Args:
        tensor: after the update.
        pruned: weights pruned in it.
        grown: weights grown in it.
        returned: weights that were pruned and grown in it.

    Returns:
        active, numel, density; pruned, grown, returned; `exploration`: fraction of positions that were active
        at least once; `churn`: fraction whose mask differs from before; `gates`: gate name -> density.
    """
    numel, active = tensor.mask.numel(), count_true([tensor.mask])
    return {
        "active": active,
        "numel": numel,
        "density": active / numel,
        "pruned": pruned,
        "grown": grown,
        "returned": returned,
        "exploration": count_true([tensor.ever]) / numel,
        "churn": (pruned + grown - 2 * returned) / numel,
        "gates": gate_densities(tensor.mask, tensor.gates),
    }


def totals(tensors: Mapping[str, dict[str, Json]]) -> dict[str, float]:
    """Density and exploration over all masked tensors together."""
    numel = sum(t["numel"] for t in tensors.values())
    explored = sum(t["exploration"] * t["numel"] for t in tensors.values())
    return {"density": sum(t["active"] for t in tensors.values()) / numel, "exploration": explored / numel}
