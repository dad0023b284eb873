"""What happens where backpropagation through time is cut; `BOUNDARIES` names what a recipe can ask for."""

from collections.abc import Callable

from sparsernn.boundary.alternating import Alternating
from sparsernn.boundary.phases import Phase, PhaseSchedule
from sparsernn.boundary.synthetic import SyntheticGradient
from sparsernn.boundary.truncate import Truncate

BOUNDARIES: dict[str, Callable[..., Truncate]] = {
    "truncate": Truncate,
    "synthetic_gradient": SyntheticGradient,
    "alternating": Alternating,
}

__all__ = ["BOUNDARIES", "Alternating", "Phase", "PhaseSchedule", "SyntheticGradient", "Truncate"]
