"""The exponential and the Cayley map of skew matrices against torch's own and its autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.nn.maps.exponential import cayley, exp_skew, pade_limit


def skew(n, scale, seed=0):
    x = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x - x.T) * scale / math.sqrt(n)


def plain_cayley(a):
    eye = torch.eye(len(a), dtype=a.dtype)
    return torch.linalg.solve(eye - a / 2, eye + a / 2)


ORACLES = {"exp": (exp_skew, torch.linalg.matrix_exp), "cayley": (cayley, plain_cayley)}


def with_gradient(function, a, g):
    a = a.clone().requires_grad_()
    x = function(a)
    x.backward(g)
    return x.detach(), (a.grad - a.grad.T) / 2


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 0.1, 1.0, 4.0, 60.0])
@pytest.mark.parametrize("n", [1, 2, 5, 24])
def test_map_and_gradient_are_those_of_autograd(name, n, scale):
    ours, theirs = ORACLES[name]
    a, g = skew(n, scale), torch.randn(n, n, dtype=torch.float64)
    (x, dx), (y, dy) = with_gradient(ours, a, g), with_gradient(theirs, a, g)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(dx, dy, rtol=0, atol=1e-10)
    (x32, dx32) = with_gradient(ours, a.float(), g.float())
    torch.testing.assert_close(x32.double(), y, rtol=0, atol=1e-5)
    torch.testing.assert_close(dx32.double(), dy, rtol=0, atol=1e-5 * max(1.0, float(g.abs().max())) * n)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.floats(1e-6, 1e4), st.integers(0, 10_000), st.sampled_from([exp_skew, cayley]))
def test_what_comes_out_is_a_rotation(n, scale, seed, function):
    x = function(skew(n, scale, seed))
    torch.testing.assert_close(x.T @ x, torch.eye(n, dtype=x.dtype), rtol=0, atol=1e-9)
    assert torch.linalg.det(x) > 0


@pytest.mark.parametrize(
    "angles", [[0.7] * 4, [math.pi] * 4, [0.0, 0.0, 1.0, 1.0], [2 * math.pi, 0.0, 0.0, 0.0]]
)
def test_repeated_angles_do_no_harm(angles):
    """Where a method by eigenvectors has to divide by a difference of equal angles."""
    a, q = torch.zeros(8, 8, dtype=torch.float64), torch.linalg.qr(skew(8, 1.0) + 1).Q
    for i, angle in enumerate(angles):
        a[2 * i, 2 * i + 1], a[2 * i + 1, 2 * i] = angle, -angle
    a, g = q @ a @ q.T, torch.randn(8, 8, dtype=torch.float64)
    (x, dx), (y, dy) = with_gradient(exp_skew, a, g), with_gradient(torch.linalg.matrix_exp, a, g)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(dx, dy, rtol=0, atol=1e-12)


def test_the_derivative_is_the_published_one():
    """B L(-A; K), B = exp(A), K = skew(B' G), with L in the corner of the exponential of a matrix twice as large."""
    a, g = skew(10, 1.5), torch.randn(10, 10, dtype=torch.float64)
    b, gradient = with_gradient(exp_skew, a, g)
    k = (b.T @ g - g.T @ b) / 2
    double = torch.cat((torch.cat((-a, k), 1), torch.cat((torch.zeros_like(a), -a), 1)))
    expected = b @ torch.linalg.matrix_exp(double)[:10, 10:]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-12, 1e-30])
def test_angles_whose_squares_vanish_are_kept(size):
    a = torch.tensor([[0.0, size], [-size, 0.0]])
    x, gradient = with_gradient(exp_skew, a, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(x, torch.eye(2) + a)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.5], [-0.5, 0.0]]))


def test_at_zero_the_derivative_is_the_skew_part():
    g = torch.randn(5, 5)
    x, gradient = with_gradient(exp_skew, torch.zeros(5, 5), g)
    assert torch.equal(x, torch.eye(5))
    torch.testing.assert_close(gradient, (g - g.T) / 2)


@pytest.mark.parametrize(("order", "kind"), [(3, torch.float32), (5, torch.float32), (7, torch.float32)])
def test_the_limit_of_an_order_is_where_it_reaches_rounding(order, kind):
    roundoff = torch.finfo(kind).eps / 2
    limit = pade_limit(order, roundoff)

    def error(x):
        f = math.factorial
        ratio = [math.comb(order, j) * f(2 * order - j) / f(2 * order) for j in range(order + 1)]
        p = sum(b * (1j * x) ** j for j, b in enumerate(ratio))
        return abs(p / p.conjugate() - complex(math.cos(x), math.sin(x)))

    assert max(error(limit * k / 50) for k in range(51)) <= 1.5 * roundoff
    assert error(1.5 * limit) > 10 * roundoff


def test_what_is_not_finite_stays_visible():
    for bad in (math.nan, math.inf):
        a = torch.zeros(3, 3)
        a[0, 1], a[1, 0] = bad, -bad
        assert exp_skew(a).isnan().all()


def test_autocast_and_half_precision_are_computed_in_single():
    a = skew(6, 1.0).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, gradient = with_gradient(exp_skew, a, torch.ones(6, 6))
    expected, wanted = with_gradient(exp_skew, a, torch.ones(6, 6))
    assert torch.equal(x, expected)
    assert torch.equal(gradient, wanted)
    for function in (exp_skew, cayley):
        assert function(a.bfloat16()).dtype == torch.float32


def test_nothing_changes_its_input():
    a = skew(6, 2.0)
    before = a.clone()
    for function in (exp_skew, cayley):
        with_gradient(function, a, torch.ones(6, 6, dtype=torch.float64))
    assert torch.equal(a, before)
