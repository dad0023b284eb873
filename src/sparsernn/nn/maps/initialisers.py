"""Where recurrent matrices begin: angles of planar rotations, Haar matrices, and what they are as skew matrices.

All of them draw from `generator`, or from torch's global one where it is None.
"""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.core.checks import checked
from sparsernn.core.limits import OneOf

Angles = Callable[[int, torch.Generator | None], Tensor]


def _uniform(count: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low


def henaff(size: int, generator: torch.Generator | None = None) -> Tensor:
    """floor(size/2) angles from U(-pi, 0): eigenvalues all over the circle.

    source: Mikael Henaff, Arthur Szlam, Yann LeCun, "Recurrent Orthogonal Networks and Long-Memory Tasks", 2016,
    arXiv:1602.06662.

    Example:
        >>> bool((henaff(9) <= 0).all()), len(henaff(9))
        (True, 4)
    """
    return _uniform(size // 2, -math.pi, 0.0, generator)


def henaff_full(size: int, generator: torch.Generator | None = None) -> Tensor:
    """The same spectrum with angles of both signs, from U(-pi, pi), as later code of the expRNN authors has it."""
    return _uniform(size // 2, -math.pi, math.pi, generator)


def cayley_angles(size: int, generator: torch.Generator | None = None) -> Tensor:
    """-tan(u/2) with u from U(0, pi/2): angles in (-1, 0], so that all eigenvalues lie within a radian of 1.

    Under the Cayley map of 2A the angles are u themselves.

    source: Kyle Helfrich, Devin Willmott, Qiang Ye, "Orthogonal Recurrent Neural Networks with Scaled Cayley
    Transform", 2018, arXiv:1707.09520.
    """
    return -torch.tan(_uniform(size // 2, 0.0, math.pi / 2, generator) / 2)


def haar_angles(size: int, generator: torch.Generator | None = None) -> Tensor:
    """The angles of a Haar matrix, one of each conjugate pair: they keep apart from each other."""
    found: Tensor = torch.linalg.eigvals(haar(size, generator)).angle().sort().values
    return found[size - size // 2 :]


def normal_angles(size: int, generator: torch.Generator | None = None) -> Tensor:
    """Angles from N(0, 1), folded into (-pi, pi) by the remainder."""
    return torch.randn(size // 2, generator=generator, dtype=torch.float64).fmod(math.pi)


def small_angles(size: int, generator: torch.Generator | None = None) -> Tensor:
    """Angles from N(0, 1), folded into (-pi/8, pi/8) by the remainder."""
    return torch.randn(size // 2, generator=generator, dtype=torch.float64).fmod(math.pi / 8)


ANGLES: dict[str, Angles] = {
    "henaff": henaff,
    "henaff_full": henaff_full,
    "cayley": cayley_angles,
    "haar_diag": haar_angles,
    "normal_diag": normal_angles,
    "normal_squeeze_diag": small_angles,
}


Init = Annotated[str, OneOf(("random", *ANGLES))]
"""How an orthogonal matrix begins: by a Haar matrix, or by the angles of its planes."""


def haar(size: int, generator: torch.Generator | None = None) -> Tensor:
    """An orthogonal matrix of determinant 1, uniform over SO(size), float64.

    Differs from published code, which fixes the signs by the diagonal of Q: here by that of R, which is what makes
    the distribution uniform (Francesco Mezzadri, "How to Generate Random Matrices from the Classical Compact Groups",
    2007, arXiv:math-ph/0609050).

    Example:
        >>> q = haar(4)
        >>> torch.allclose(q.T @ q, torch.eye(4, dtype=q.dtype)), round(float(torch.linalg.det(q)), 6)
        (True, 1.0)
    """
    factor, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    q: Tensor = factor * torch.where(r.diagonal() < 0, -1.0, 1.0)
    if torch.linalg.slogdet(q)[0] < 0:
        q[:, 0].neg_()
    return q


def planar_rotations(angles: Tensor, size: int) -> Tensor:
    """Blocks [[cos s, sin s], [-sin s, cos s]] along the diagonal; a last odd row and column holds 1.

    Example:
        >>> planar_rotations(torch.tensor([torch.pi / 2]), 3).round().abs()
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 1.]])
    """
    matrix = torch.eye(size, dtype=angles.dtype)
    even = torch.arange(len(angles)) * 2
    matrix[even, even] = matrix[even + 1, even + 1] = angles.cos()
    matrix[even, even + 1], matrix[even + 1, even] = angles.sin(), -angles.sin()
    return matrix


@checked
def orthogonal_matrix(init: Init, size: int, generator: torch.Generator | None = None) -> Tensor:
    """A matrix of SO(size), float64: "random" is Haar, the other names are those of `ANGLES`."""
    return (
        haar(size, generator) if init == "random" else planar_rotations(ANGLES[init](size, generator), size)
    )


def glorot_normal(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """N(0, 2 / (rows + columns)), float64.

    source: Xavier Glorot, Yoshua Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010.
    """
    draw = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return draw * math.sqrt(2 / (rows + columns))


def kaiming_normal(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """N(0, 2 / columns), float64: columns are what a row reads.

    source: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, "Delving Deep into Rectifiers", 2015,
    arXiv:1502.01852.
    """
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * math.sqrt(2 / columns)
