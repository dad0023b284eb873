"""What happens where backpropagation through time is cut.

Contract: `enter(state)` cuts the graph at the start of a window, `roots(state)` gives extra roots (tensors and their
gradients) for the one backward pass, `learn()` lets the boundary train what it trains.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Roots = tuple[list[Tensor], list[Tensor]]


def detach(state: Any) -> Any:
    """The same nested state, cut off from its graph; None is no state."""
    if state is None:
        return None
    return state.detach() if isinstance(state, Tensor) else tuple(detach(s) for s in state)


class Truncate:
    """Truncated backpropagation through time: nothing flows back across the cut. The null member.

    Example:
        >>> import torch
        >>> Truncate().enter((torch.ones(1, requires_grad=True) * 2,))[0].requires_grad
        False
    """

    def enter(self, state: Any) -> Any:
        """Cut the state off from the window before."""
        return detach(state)

    def roots(self, state: Any) -> Roots:
        """No roots besides the loss."""
        return [], []

    def learn(self) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No state."""


BOUNDARIES: dict[str, Callable[..., Truncate]] = {"truncate": Truncate}
