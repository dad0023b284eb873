"""What penalties on weights have in common: when they add to the gradients, and thresholds."""

from collections.abc import Iterable
from typing import Annotated

from torch import nn
from torch.optim import Optimizer

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative, OneOf, Size
from sparsernn.core.plain import Json
from sparsernn.kernels import lasso_kernel
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.sparsifier import Sparsifier

SCALES = ("per_token", "per_sequence")
NO_PENALTY = "strength and threshold are 0, so no weight is ever shrunk or removed."


class Penalty(Sparsifier):
    """A penalty whose gradient is known in closed form and added to `.grad`, so that no graph is built for it.

    Training loops call `after_backward` between the backward pass and clipping, and `after_step` after the
    optimizer's step.

    Args:
        model: whose weights are penalised.
        optimizer: of the model's parameters; needed by those that shrink weights at the learning rate.
    """

    in_zeros: bool = True

    def __init__(self, model: nn.Module, optimizer: Optimizers = None) -> None:
        super().__init__(model, optimizer)
        self._stepped: set[int] | None = None
        """Identities of the optimizers that have stepped since the gradient was last added; None: it is not there."""

    def needs(self) -> list[nn.Parameter]:
        """Those that are trained; a frozen part of a group does not shrink, and its thresholds need no optimizer."""
        return [parameter for parameter in self.touches() if parameter.requires_grad]

    def after_backward(self) -> None:
        """Add the penalty's gradient."""
        self._stepped = set()
        self.add_gradients()

    def after_step(self) -> list[dict[str, Json]]:
        """Put to 0 what has become small enough."""
        if len(self.optimizers) < 2:  # of several, the others have still to step
            self._stepped = None
        self.project()
        return []

    def step(self) -> list[dict[str, Json]]:
        """The name of `after_step` in a loop of one's own."""
        return self.after_step()

    def finalize(self) -> None:
        """Leave hard zeros behind."""
        self.project()

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """The event "zeros": how much of each penalised tensor, and of all together, is not 0."""
        found = self.summary()
        return [{"event": "zeros", "density": found["masked_density"], "tensors": found["tensors"]}]

    def before_step(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Add the gradient, unless it has been added since this optimizer last stepped."""
        if self._stepped is None or id(optimizer) in self._stepped:
            self._stepped = set()
            self.add_gradients(scale)
        self._stepped.add(id(optimizer))

    def forget_gradients(self) -> None:
        """What was added is gone."""
        self._stepped = None

    def add_gradients(self, scale: float = 1.0) -> None:
        """Add the gradient of the penalty at the present weights, times `scale`, to `.grad`."""

    def project(self) -> None:
        """Put to 0 what is below the threshold."""

    def value(self) -> float:
        """The penalty at the present weights, on the scale of the loss."""
        return 0.0


def per_token(strength: float, scale: str, window: int | None) -> float:
    """A strength on the scale of a loss that is the mean over tokens.

    Args:
        strength: lambda, at least 0.
        scale: "per_token" (of such a loss) or "per_sequence": of one that is summed over the window and averaged over
            the sequences of a batch, as in the original; it is divided by the window.
        window: time steps T of a training window; None where that is not known.

    Raises:
        InputError: an impossible value, or a window that is needed and not known.

    Example:
        >>> per_token(0.35, "per_sequence", 35)
        0.01
    """
    check_value("strength", strength, NonNegative)
    check_value("lambda_scale", scale, Annotated[str, OneOf(SCALES)])
    if scale == "per_token":
        return strength
    if window is None:
        raise InputError(
            "lambda_scale is 'per_sequence' and the window is not known; give window, its time steps."
        )
    check_value("window", window, Size)
    return strength / window


def threshold(parameters: Iterable[nn.Parameter], least: float) -> None:
    """Put weights of a magnitude below `least` to 0."""
    for parameter in parameters if least else ():
        lasso_kernel.threshold(parameter.detach(), least)
