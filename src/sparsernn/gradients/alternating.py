"""Synthetic and real gradients in turn."""

from collections.abc import Sequence

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.limits import Size
from sparsernn.core.plain import Json
from sparsernn.gradients.gradient_phases import Source
from sparsernn.gradients.synthetic_gradients import SyntheticGradient
from sparsernn.optim.restarts import Base, Restarts


class Alternating(SyntheticGradient):
    """Synthetic gradients whose source changes at every restart: real, synthetic, real ...

    Args:
        model, seed, epochs: see `SyntheticGradient`.
        base: where the restarts lie, see `sparsernn.optim.restarts.Restarts`; give the learning rate the same.
        start: source of the first epoch.
        switch_epochs: further epochs at which the source changes; one that is a restart too changes nothing.
        settings: all others of `SyntheticGradient`.

    Example:
        >>> from sparsernn.models import SequenceModel
        >>> boundary = Alternating(SequenceModel(1, 1, [4]), seed=1, epochs=40, base=5)
        >>> print(boundary.schedule)
        epochs 1-5 real, 6-10 synthetic, 11-20 real, 21-40 synthetic
    """

    settings_groups = (SyntheticGradient, *SyntheticGradient.settings_groups)

    @checked
    def __init__(
        self,
        model: Model,
        seed: int,
        epochs: int,
        *,
        base: Base,
        start: Source = "real",
        switch_epochs: Sequence[Size] = (),
        **settings: Json,
    ) -> None:
        restarts = [first for first, _ in Restarts(base).cycles(epochs)[1:]]
        toggles = [*restarts, *switch_epochs]
        super().__init__(model, seed, epochs, start=start, switch_epochs=toggles, **settings)
