"""What a recurrent matrix does to signals that pass through it again and again: pure functions on matrices.

All compute in float64 and leave what they are given alone. V is in column convention: h_t = phi(U x_t + V h_{t-1}).
"""

import torch
from torch import Tensor

from sparsernn.core.errors import InputError

_DOUBLINGS = 40  # the stationary covariance sums 2^40 steps at the most


def _double(matrix: Tensor) -> Tensor:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a recurrent matrix is {tuple(matrix.shape)}; it must be square.")
    return matrix.detach().to(torch.complex128 if matrix.is_complex() else torch.float64)


def eigenvalues(v: Tensor) -> Tensor:
    """The eigenvalues (H,), complex128."""
    values: Tensor = torch.linalg.eigvals(_double(v))
    return values


def departure_from_normality(v: Tensor, relative: bool = False) -> float:
    """Henrici's number sqrt(||V||_F^2 - sum |eigenvalue|^2): 0 for a normal matrix, in [0, ||V||_F].

    It is the norm of the strictly block-triangular part of the Schur form, where the blocks are scaled rotations.

    source: Peter Henrici, "Bounds for iterates, inverses, spectral variation and fields of values of non-normal
    matrices", 1962.

    Args:
        v: (H, H).
        relative: divided by ||V||_F, for a number in [0, 1].

    Example:
        >>> departure_from_normality(torch.tensor([[0.5, 0.0], [2.0, 0.5]]))
        2.0
    """
    v = _double(v)
    size = v.abs().square().sum()
    departure = (size - eigenvalues(v).abs().square().sum()).clamp(min=0).sqrt()
    return float(departure / size.sqrt() if relative and size else departure)


def power_norms(v: Tensor, steps: int) -> Tensor:
    """||V^k||_2 for k = 0 .. steps (steps + 1,), fewer where powers leave float64.

    Growth before decay is what only non-normal matrices do.
    """
    v = _double(v)
    power, norms = torch.eye(len(v), dtype=v.dtype, device=v.device), []
    for _ in range(steps + 1):
        if not power.isfinite().all():
            break
        norms.append(torch.linalg.matrix_norm(power, 2))
        power = v @ power
    return torch.stack(norms)


def band_profile(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean |Theta[j + k, j]| along every diagonal below the first, k = 1 .. H-1, and its standard error.

    A delay line shows as a first value above the rest. The error of the last, a single entry, is NaN.

    Returns:
        Two tensors (H - 1,).
    """
    theta = _double(theta).abs()
    bands = [theta.diagonal(-k) for k in range(1, len(theta))]
    means = torch.stack([band.mean() for band in bands])
    errors = [
        band.std() / len(band) ** 0.5 if len(band) > 1 else band.new_tensor(torch.nan) for band in bands
    ]
    return means, torch.stack(errors)


def noise_covariance(v: Tensor, horizon: int | None = None) -> Tensor:
    """The sum of V^k V^k' over k < horizon, or over all k: how unit noise of every step adds up.

    Raises:
        InputError: the infinite sum does not settle, as for every orthogonal V.
    """
    v = _double(v)
    total = torch.eye(len(v), dtype=v.dtype, device=v.device)
    if horizon is not None:
        return _of_horizon(v, total, horizon)
    power = v
    for _ in range(_DOUBLINGS):
        total = total + power @ total @ power.mH
        power = power @ power
        size = float(torch.linalg.matrix_norm(power))
        if (
            size**2 * float(torch.linalg.matrix_norm(total)) < torch.finfo(torch.float64).tiny
            or not size < 1e100
        ):
            break
    if not size < 1e-8:
        raise InputError(
            "horizon is None, and noise piles up for ever in this matrix; give a number of steps."
        )
    return total


def _of_horizon(v: Tensor, one: Tensor, horizon: int) -> Tensor:
    """The finite sum, by doubling: 2 log2(horizon) steps instead of horizon."""
    total, power = one, v
    for bit in f"{max(1, horizon):b}"[1:]:
        total, power = total + power @ total @ power.mH, power @ power
        if bit == "1":
            total, power = one + v @ total @ v.mH, v @ power
    return total


def fisher_memory(
    v: Tensor, steps: int, direction: Tensor | None = None, horizon: int | None = None, noise: float = 1.0
) -> Tensor:
    """J(k) = u' V^k' C^-1 V^k u for k = 0 .. steps-1: what the state still tells of an input of k steps ago.

    source: Surya Ganguli, Dongsung Huh, Haim Sompolinsky, "Memory traces in dynamical systems", 2008. The sum over
    all k is 1 for a stable normal V, and up to H for others.

    Args:
        v: (H, H), with a spectral radius below 1 unless there is a horizon.
        steps: how many values.
        direction: u (H,), taken at length 1, or several as columns (H, S), over which is summed; None: all units.
        horizon: how many steps of noise there are in the state; None for all.
        noise: the variance of each unit's noise at each step, above 0.

    Returns:
        (steps,).

    Raises:
        InputError: see `noise_covariance`; or noise grows beyond what float64 can tell apart.

    Example:
        >>> line = torch.ones(2).diag(-1)
        >>> fisher_memory(line, 3, torch.tensor([1.0, 0.0, 0.0]))  # 1 / (k + 1)
        tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    v = _double(v)
    signal = torch.eye(len(v), dtype=v.dtype, device=v.device)
    if direction is not None:
        given = direction.detach().to(v).view(len(v), -1)
        signal = given / given.norm(dim=0)
    lu, pivots, singular = torch.linalg.lu_factor_ex(noise * noise_covariance(v, horizon))
    if singular:
        raise InputError("noise grows so far in this matrix that its covariance has no inverse in float64.")
    values = []
    for _ in range(steps):
        values.append((signal.conj() * torch.linalg.lu_solve(lu, pivots, signal)).sum().real)
        signal = v @ signal
    return torch.stack(values)
