"""What penalties on weights have in common: when they add to the gradients, and thresholds."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from sparsernn.core.errors import InputError
from sparsernn.kernels import lasso_kernel
from sparsernn.sparsity.sparsifier import Sparsifier

SCALES = ("per_token", "per_sequence")


class Penalty(Sparsifier):
    """A penalty whose gradient is known in closed form and added to `.grad`, so that no graph is built for it.

    Training loops call `after_backward` between the backward pass and clipping, and `after_step` after the
    optimizer's step.

    Args:
        model: whose weights are penalised.
        optimizer: of the model's parameters; needed by those that shrink weights at the learning rate.
    """

    in_zeros: ClassVar[bool] = True

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        super().__init__(model)
        self.optimizer = optimizer
        self._added = False

    def after_backward(self) -> None:
        """Add the penalty's gradient."""
        self._added = True
        self.add_gradients()

    def after_step(self) -> list[dict[str, Any]]:
        """Put to 0 what has become small enough."""
        self._added = False
        self.project()
        return []

    def step(self) -> list[dict[str, Any]]:
        """The name of `after_step` in a loop of one's own."""
        return self.after_step()

    def finalize(self) -> None:
        """Leave hard zeros behind."""
        self.project()

    def end_epoch(self) -> list[dict[str, Any]]:
        """The event "zeros": how much of each penalised tensor, and of all together, is not 0."""
        found = self.summary()
        return [{"event": "zeros", "density": found["masked_density"], "tensors": found["tensors"]}]

    def add_gradients(self) -> None:
        """Add the gradient of the penalty at the present weights to `.grad`."""

    def project(self) -> None:
        """Put to 0 what is below the threshold."""

    def value(self) -> float:
        """The penalty at the present weights, on the scale of the loss."""
        return 0.0

    def attach(self, optimizer: Optimizer) -> None:
        """Let an optimizer's `step` call `after_step`, and before it `after_backward` where the loop did not."""
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        optimizer.register_step_post_hook(lambda *_: self._behind_step())

    def _before_step(self) -> None:
        if not self._added:
            self.after_backward()

    def _behind_step(self) -> None:
        self.after_step()


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
    if not strength >= 0:
        raise InputError(f"strength is {strength!r}; it must be at least 0.")
    if scale not in SCALES:
        raise InputError(f"lambda_scale is {scale!r}; it must be {' or '.join(SCALES)}.")
    if scale == "per_token":
        return strength
    if window is None:
        raise InputError(
            "lambda_scale is 'per_sequence' and the window is not known; give window, its time steps."
        )
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1 time step.")
    return strength / window


def threshold(parameters: Iterable[nn.Parameter], least: float) -> None:
    """Put weights of a magnitude below `least` to 0."""
    for parameter in parameters if least else ():
        lasso_kernel.threshold(parameter.detach(), least)
