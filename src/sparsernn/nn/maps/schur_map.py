"""A recurrent matrix in Schur form: eigenvalues under control, and everything that is not normal beside them."""

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.limits import Multiple, NonNegative, Size
from sparsernn.nn.maps.exponential import exp_skew
from sparsernn.nn.maps.initialisers import ANGLES, Init, haar
from sparsernn.nn.maps.map_contract import RecurrentMap, orthogonality_error
from sparsernn.nn.maps.skew import planar_vector, scatter, skew_matrix, upper_places


class Normal(RecurrentMap):
    """V = P Theta P' with P = exp(A) and Theta lower block-triangular: the map of the non-normal network, nnRNN.

        block i of Theta's diagonal = radius_i [[cos, sin], [-sin, cos]](angle_i),   below the blocks: `lower`

    The eigenvalues are radius exp(+- i angle), whatever `lower` is; with `lower` zero and radii 1, V is orthogonal.

    source: Giancarlo Kerg, Kyle Goyette, Maximilian Puelma Touzel, Gauthier Gidel, Eugene Vorontsov, Yoshua Bengio,
    Guillaume Lajoie, "Non-normal Recurrent Neural Network (nnRNN): learning long time dependencies while improving
    expressivity with transient dynamics", 2019, arXiv:1905.12080.

    Differs from the original: the published code also trains the entry below the diagonal inside each block, with
    which radius and angle no longer are the eigenvalues' (`mask="code"` has it back); it keeps H angles where H/2
    are used; angles begin in U(0, 2 pi) instead of U(0, 6.28); "random" is a Haar matrix beside A = 0.

    Args:
        hidden_size: H, even.
        init: of P: "henaff", "cayley" or another name of `initialisers.ANGLES`, or "random" (Haar). With all but
            "random", P turns the planes of Theta's blocks, so that V begins as Theta, whatever the angles of P.
        mask: "strict" (the paper's count of parameters, H^2 - H/2) or "code" (H^2).
        radius_penalty: delta >= 0 of the penalty delta * sum((radius - 1)^2).
        train_radius: false fixes the radii at 1.

    Parameters: `skew` (H (H-1)/2,) for A; `lower` for Theta below its blocks, row by row, 0 at first; `radius`
    (H/2,), 1 at first; `angle` (H/2,). The authors let `skew` learn about ten times slower than the rest and decay
    `lower` alone. Buffer: `base` (H, H), for "random" only.

    Raises:
        InputError: an odd H, an unknown init or mask, a negative penalty.

    Example:
        >>> map = Normal(4)
        >>> bool(torch.allclose(map() @ map().T, torch.eye(4), atol=1e-5)), map.penalty().item()
        (True, 0.0)
        >>> sum(p.numel() for p in map.parameters())
        14
    """

    base: Tensor | None
    places: Tensor
    lower_places: Tensor
    block_places: Tensor

    @checked
    def __init__(
        self,
        hidden_size: Annotated[Size, Multiple(2)],
        *,
        init: Init = "henaff",
        mask: Literal["strict", "code"] = "strict",
        radius_penalty: NonNegative = 1e-4,
        train_radius: bool = True,
    ) -> None:
        super().__init__(hidden_size)
        self.mask, self.radius_penalty = mask, radius_penalty
        kind, n = torch.get_default_dtype(), hidden_size
        lower = _lower_places(n, mask)
        for name, places in (("", upper_places(n)), ("lower_", lower), ("block_", _block_places(n))):
            self.register_buffer(f"{name}places", places, persistent=False)
        self.register_buffer("base", haar(n).to(kind) if init == "random" else None)
        angles = torch.zeros(n // 2) if init == "random" else ANGLES[init](n, None)
        self.skew = nn.Parameter(planar_vector(angles, n).to(kind))
        self.lower = nn.Parameter(torch.zeros(len(lower)))
        self.radius = nn.Parameter(torch.ones(n // 2), requires_grad=train_radius)
        self.angle = nn.Parameter(torch.rand(n // 2) * 2 * math.pi)

    def basis(self) -> Tensor:
        """P (H, H), orthogonal."""
        p = exp_skew(skew_matrix(self.skew, self.places, self.hidden_size))
        return p if self.base is None else self.base @ p

    def theta(self) -> Tensor:
        """Theta (H, H), the Schur form of V."""
        cos, sin = self.radius * self.angle.cos(), self.radius * self.angle.sin()
        blocks = scatter(torch.cat((cos, sin, -sin, cos)), self.block_places, self.hidden_size)
        return blocks + scatter(self.lower, self.lower_places, self.hidden_size)

    def forward(self) -> Tensor:
        """V (H, H)."""
        p = self.basis()
        return p @ self.theta().to(p.dtype) @ p.mT

    def manifold_error(self) -> float:
        """The largest entry of |P'P - I|: as small as it is, the eigenvalues are those of Theta."""
        with torch.no_grad():
            return orthogonality_error(self.basis())

    def penalty(self) -> Tensor | float:
        """delta * sum((radius - 1)^2), a sum and not a mean."""
        return self.radius_penalty * (self.radius - 1).square().sum()


def _lower_places(size: int, mask: str) -> Tensor:
    """Flat places of the entries below the blocks; "code" adds the one inside each block."""
    ends = (row // 2 * 2 if mask == "strict" else row for row in range(size))
    return torch.cat([row * size + torch.arange(end) for row, end in enumerate(ends)])


def _block_places(size: int) -> Tensor:
    """Flat places of the blocks' entries: all of (0, 0), then (0, 1), (1, 0), (1, 1)."""
    corner = torch.arange(0, size, 2) * (size + 1)
    return torch.cat((corner, corner + 1, corner + size, corner + size + 1))
