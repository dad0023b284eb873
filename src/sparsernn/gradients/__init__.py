"""What happens where backpropagation through time is cut; `BOUNDARIES` names what a recipe can ask for."""

from collections.abc import Callable

from sparsernn.gradients.alternating import Alternating
from sparsernn.gradients.gradient_phases import Phase, PhaseSchedule
from sparsernn.gradients.synthetic_gradients import SyntheticGradient
from sparsernn.gradients.truncate import Truncate

BOUNDARIES: dict[str, Callable[..., Truncate]] = {
    "truncate": Truncate,
    "synthetic_gradient": SyntheticGradient,
    "alternating": Alternating,
}

__all__ = ["BOUNDARIES", "Alternating", "Phase", "PhaseSchedule", "SyntheticGradient", "Truncate"]
