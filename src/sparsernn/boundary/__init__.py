"""What happens where backpropagation through time is cut; `BOUNDARIES` names what a recipe can ask for."""

from collections.abc import Callable

from sparsernn.boundary.phases import Phase, PhaseSchedule
from sparsernn.boundary.synthetic import Alternating, SyntheticGradient
from sparsernn.boundary.truncate import Truncate, detach

BOUNDARIES: dict[str, Callable[..., Truncate]] = {
    "truncate": Truncate,
    "synthetic_gradient": SyntheticGradient,
    "alternating": Alternating,
}

__all__ = ["BOUNDARIES", "Alternating", "Phase", "PhaseSchedule", "SyntheticGradient", "Truncate", "detach"]
