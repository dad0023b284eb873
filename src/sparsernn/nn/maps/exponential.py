"""From a skew matrix to an orthogonal one, with derivatives that cost little more than the map itself.

The derivative of the exponential is usually taken through the exponential of a matrix twice as large. For a skew A
three facts make it cheaper. exp(A) is orthogonal, so that with X = exp(A) and G = dL/dX only K = skew(X' G) matters
and dL/dA = L(A; K) X', L being the derivative of exp in the direction K. Powers of A are symmetric or skew, so that
the derivatives of A^2 and A^4 are one product and its transpose. And A is normal, so that the size of its spectrum,
which alone decides how far to scale, is bounded by the norms of the powers that are computed anyway.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.core.autograd_context import Context, differentiable_once

# Orders of the diagonal Pade approximant; beyond 7, in double precision only, the next good one in products is 13.
_ORDERS = {torch.float32: (3, 5, 7), torch.float64: (3, 5, 7, 13)}


def pade_limit(order: int, roundoff: float) -> float:
    """The largest angle whose exponential the diagonal Pade approximant meets up to `roundoff`.

    On the imaginary axis the approximant lies on the unit circle and errs by (m!)^2 / ((2m)! (2m+1)!) x^(2m+1), the
    first term that it misses.

    Args:
        order: m, the degree of numerator and denominator.
        roundoff: the error allowed.

    Example:
        >>> round(pade_limit(7, 2**-24), 2)
        3.65
    """
    f = math.factorial
    return math.pow(roundoff * f(2 * order) * f(2 * order + 1) / f(order) ** 2, 1 / (2 * order + 1))


class _Plan(NamedTuple):
    """Pade coefficients of exp(A / 2^s), with the powers of 2^-s in them, and s."""

    even: list[float]
    odd: list[float]
    squarings: int


def _plan(bound: float, dtype: torch.dtype) -> _Plan:
    """The cheapest order that reaches `bound`, or the highest one and as many squarings as it needs."""
    orders, roundoff = _ORDERS[dtype], torch.finfo(dtype).eps / 2
    fitting = [m for m in orders if bound <= pade_limit(m, roundoff)]
    m = fitting[0] if fitting else orders[-1]
    squarings = math.ceil(math.log2(max(1.0, bound / pade_limit(m, roundoff))))
    ratios = (math.comb(m, j) * math.factorial(2 * m - j) / math.factorial(2 * m) for j in range(m + 1))
    b = [ratio * 2.0 ** (-squarings * j) for j, ratio in enumerate(ratios)]
    return _Plan(b[0::2], b[1::2], squarings)


def _bound(a: Tensor, squared: Tensor, fourth: Tensor) -> Tensor:
    """An upper bound of the largest angle of a skew matrix: every angle occurs twice, hence the root of 2."""
    bounds = []
    for root, power in enumerate((a, squared, fourth)):
        norms = torch.stack([torch.linalg.matrix_norm(power, 1), torch.linalg.matrix_norm(power) / 2**0.5])
        bounds.append(norms.min().double() ** 0.5**root)
    return torch.stack(bounds).min()


def _combine(coefficients: list[float], matrices: list[Tensor]) -> Tensor:
    """The sum of coefficient times matrix."""
    total = coefficients[0] * matrices[0]
    for coefficient, matrix in zip(coefficients[1:], matrices[1:], strict=False):
        total.add_(matrix, alpha=coefficient)
    return total


def _polynomial(b: list[float], powers: list[Tensor]) -> Tensor:
    """b0 + b1 B + b2 B^2 + b3 B^3 + B^3 (b4 B + b5 B^2 + b6 B^3), as far as there are coefficients."""
    value = _combine(b[1:4], powers)
    value.diagonal().add_(b[0])
    return value.addmm_(powers[2], _combine(b[4:], powers)) if len(b) > 4 else value


def _polynomial_derivative(b: list[float], powers: list[Tensor], moved: list[Tensor]) -> Tensor:
    """The change of `_polynomial` when the powers change by `moved`."""
    value = _combine(b[1:4], moved)
    if len(b) > 4:
        value.addmm_(moved[2], _combine(b[4:], powers)).addmm_(powers[2], _combine(b[4:], moved))
    return value


def _moved_powers(a: Tensor, powers: list[Tensor], k: Tensor) -> list[Tensor]:
    """Derivatives of A^2, A^4 and A^6, in the direction of a skew K: sums of products and their transposes."""
    product = a @ k
    moved = [product + product.mT]
    if len(powers) > 1:
        product = powers[0] @ moved[0]
        moved.append(product + product.mT)
    if len(powers) > 2:
        outer = powers[0] @ product
        moved.append((outer + outer.mT).addmm_(product, powers[0]))
    return moved


def _skew_part(matrix: Tensor) -> Tensor:
    return (matrix - matrix.mT).mul_(0.5)


class _Exponential(torch.autograd.Function):
    """exp of a skew matrix; backward reuses the powers, the LU factors and the roots of the forward pass."""

    @staticmethod
    def _constant(ctx: Context, x: Tensor) -> Tensor:
        ctx.plan = None
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def forward(ctx: Context, a: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            squared = a @ a
            fourth = squared @ squared
            # both at once: a device is waited for; powers of what is tiny are 0, so that the bound does not tell
            bound, moves = torch.stack([_bound(a, squared, fourth), a.any().double()]).tolist()
            if not moves:  # so it is right after every change of base
                return _Exponential._constant(ctx, torch.eye(len(a), dtype=a.dtype, device=a.device))
            if not math.isfinite(bound):
                return _Exponential._constant(ctx, torch.full_like(a, math.nan))
            ctx.plan = plan = _plan(bound, a.dtype)
            powers = [squared, fourth][: len(plan.even) - 1]
            if len(plan.even) > 3:
                powers.append(fourth @ squared)
            v, w = _polynomial(plan.even, powers), _polynomial(plan.odd, powers)
            u = a @ w
            # regular by the order that was chosen: asking whether it was would be another wait
            lu, pivots, _ = torch.linalg.lu_factor_ex(v - u)
            roots: list[Tensor] = [torch.linalg.lu_solve(lu, pivots, v + u)]
            for _ in range(plan.squarings):
                roots.append(roots[-1] @ roots[-1])
        ctx.count = len(powers)
        ctx.save_for_backward(a, w, lu, pivots, *powers, *roots)
        return roots[-1]

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.plan is None:
                (x,) = ctx.saved_tensors
                return _skew_part(x.mT @ grad)
            a, w, lu, pivots, *rest = ctx.saved_tensors
            powers, roots = rest[: ctx.count], rest[ctx.count :]
            k = _skew_part(roots[-1].mT @ grad)
            for root in reversed(roots[:-1]):
                k = torch.addmm(k, root @ k, root.mT)
            moved = _moved_powers(a, powers, k)
            v = _polynomial_derivative(ctx.plan.even, powers, moved)
            u = (k @ w).addmm_(a, _polynomial_derivative(ctx.plan.odd, powers, moved))
            right = ((v + u) @ roots[0].mT).sub_(v).add_(u)
            return _skew_part(torch.linalg.lu_solve(lu, pivots, right))


class _Cayley(torch.autograd.Function):
    """(I - A/2)^-1 (I + A/2) = 2 (I - A/2)^-1 - I, so the inverse that backward needs is in the result."""

    @staticmethod
    def forward(ctx: Context, a: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            left = a * -0.5
            left.diagonal().add_(1)
            # I - A/2 of a skew A is regular; asking would be to wait for a device
            x: Tensor = torch.linalg.inv_ex(left).inverse.mul_(2)
            x.diagonal().sub_(1)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            inverse = x * 0.5
            inverse.diagonal().add_(0.5)
            return _skew_part(inverse.mT @ grad @ inverse.mT)


def _at_least_single(a: Tensor) -> Tensor:
    return a if a.dtype in _ORDERS else a.float()


def exp_skew(a: Tensor) -> Tensor:
    """exp(A) of a skew matrix, with a derivative by shared powers.

    Diagonal Pade approximants with scaling and squaring (Nicholas Higham, "The Scaling and Squaring Method for the
    Matrix Exponential Revisited", 2005); the derivative is exact differentiation of that scheme in the sense of Awad
    Al-Mohy and Nicholas Higham ("Computing the Frechet Derivative of the Matrix Exponential, with an Application to
    Condition Number Estimation", 2009).

    Differs from the original: the scaling follows a bound of the spectrum, not the 1-norm (both agree for skew
    matrices of few entries; a dense one needs several squarings fewer), and only skew directions are differentiated.

    Args:
        a: (n, n), skew; what is not skew in it is not looked for. 16-bit numbers are computed in float32.

    Returns:
        (n, n) in SO(n), in float32 or float64; NaN throughout where `a` holds NaN or infinity. The gradient with
        respect to `a` is skew: half the difference of the plain one and its transpose. It cannot be differentiated
        again.

    Example:
        >>> exp_skew(torch.tensor([[0.0, -torch.pi / 2], [torch.pi / 2, 0.0]])).round().abs()
        tensor([[0., 1.],
                [1., 0.]])
    """
    result: Tensor = _Exponential.apply(_at_least_single(a))  # type: ignore[no-untyped-call]
    return result


def cayley(a: Tensor) -> Tensor:
    """The Cayley transform (I - A/2)^-1 (I + A/2) of a skew matrix; near 0 it agrees with exp to second order.

    An angle x of A becomes 2 arctan(x / 2): a half turn is never reached.

    Args:
        a: (n, n), skew. 16-bit numbers are computed in float32.

    Returns:
        (n, n) in SO(n), without the eigenvalue -1. The gradient is skew, as in `exp_skew`.

    Example:
        >>> cayley(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    result: Tensor = _Cayley.apply(_at_least_single(a))  # type: ignore[no-untyped-call]
    return result
