"""The contract of recurrent maps."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.limits import Size


class RecurrentMap(nn.Module, ABC):
    """A recurrent matrix and what it is made of.

    `forward() -> V (H, H)`, differentiable, for h_t = phi(U x_t + V h_{t-1}) with columns as states; a batch of
    states in rows (B, H) is multiplied by the transpose of V. Whoever uses a map calls it once per window, for V
    changes with every optimizer step and never between two.

    Args:
        hidden_size: H, at least 1.

    Raises:
        InputError: a smaller size.
    """

    @checked
    def __init__(self, hidden_size: Size) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def forward(self) -> Tensor:
        """V (H, H)."""

    def manifold_error(self) -> float:
        """How far V is from what the map promises: the largest entry of |Q'Q - I| of its orthogonal part."""
        return 0.0

    def is_on_manifold(self, tolerance: float = 1e-4) -> bool:
        """Whether `manifold_error` is at most `tolerance` (NaN never is)."""
        return self.manifold_error() <= tolerance

    def penalty(self) -> Tensor | float:
        """A regulariser of the map's own; 0 for most."""
        return 0.0

    def extra_repr(self) -> str:
        """The size, for print(map)."""
        return f"hidden_size={self.hidden_size}"


def orthogonality_error(matrix: Tensor) -> float:
    """The largest entry of |Q^H Q - I|, in the precision of the matrix.

    Example:
        >>> orthogonality_error(torch.diag(torch.tensor([1.0, 0.5])))
        0.75
    """
    matrix = matrix.detach()
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return float((matrix.mH @ matrix - eye).abs().max())
