"""The loss of a softmax and its gradient in the place of the scores, compiled and as the twin in torch has them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sparsernn.kernels import softmax_kernel
from sparsernn.nn.words.softmax import excess, softmax_nll


def case(rows, columns, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(rows, columns, generator=generator)
    bias = torch.randn(columns, generator=generator)
    return scores.to(dtype), bias, torch.randint(columns, (rows,), generator=generator)


def oracle(scores, bias, target):
    """In float64, of the scores as they are stored."""
    wide = scores.double() + (0 if bias is None else bias.double())
    gradient = wide.softmax(1)
    gradient[torch.arange(len(target)), target] -= 1
    return functional.cross_entropy(wide, target, reduction="none"), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (2, 16), (5, 17), (7, 130), (40, 1000)])
def test_loss_and_gradient_are_those_of_float64(compiled_or_twin, shape, with_bias, dtype):
    scores, bias, target = case(*shape, dtype)
    bias = bias if with_bias else None
    loss, gradient = oracle(scores, bias, target)
    if softmax_kernel.takes(scores):
        alone = softmax_kernel.softmax(scores, bias, target, keep=False)
        torch.testing.assert_close(alone.double(), loss, rtol=1e-5, atol=1e-5)
    found, kept = excess(scores, bias, target)
    torch.testing.assert_close(found.double(), loss, rtol=1e-5, atol=1e-5)
    assert kept.dtype == dtype
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(kept.double(), gradient, rtol=rounding, atol=1e-6)


def test_scores_stay_where_no_gradient_is_wanted(compiled_or_twin):
    scores, bias, target = case(4, 40)
    if softmax_kernel.takes(scores):
        before = scores.clone()
        softmax_kernel.softmax(scores, bias, target, keep=False)
        assert scores.equal(before)


def test_far_scores_and_numbers_that_are_none(compiled_or_twin):
    """Hundreds below the best count as 0, -inf is an impossible word, NaN does not vanish."""
    scores = torch.zeros(4, 20)
    scores[0, 3], scores[1, 5], scores[2, 1], scores[3, 7] = 500.0, -torch.inf, torch.nan, torch.inf
    loss, gradient = excess(scores.clone(), None, torch.tensor([3, 0, 0, 0]))
    assert loss[0] == 0
    assert loss[1].item() == pytest.approx(math.log(19), rel=1e-6)
    assert (gradient[0].abs() < 1e-30).all()
    assert gradient[1, 5] == 0
    assert loss[2:].isnan().all()
    far, _ = excess(scores[:1].clone(), None, torch.tensor([4]))
    assert far.item() == pytest.approx(500.0)


def test_rounding_is_to_the_nearest_and_to_even(compiled_or_twin):
    """Two words: the gradient of the first is 1 / (1 + e^-d), which torch rounds the same way."""
    steps = torch.linspace(-6, 6, 4001)
    scores = torch.stack([steps, torch.zeros_like(steps)], 1).bfloat16()
    _, exact = oracle(scores, None, torch.ones(4001, dtype=torch.int64))
    _, found = excess(scores.clone(), None, torch.ones(4001, dtype=torch.int64))
    near = exact.float().bfloat16()
    assert (
        found != near
    ).float().mean() < 0.01  # a sum just at the middle of two numbers may fall to either side
    torch.testing.assert_close(found, near, rtol=2**-7, atol=0)


@pytest.mark.parametrize("target", [-1, 20])
def test_a_target_outside_is_an_error(compiled_or_twin, target):
    with pytest.raises((IndexError, RuntimeError), match=r"must be in \[0, 20\)|out of bounds"):
        excess(torch.zeros(2, 20), None, torch.tensor([1, target]))


@pytest.mark.parametrize("sizes", [(6, 33), (300, 256)])
def test_threads_change_nothing(sizes):
    parts = case(*sizes)
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found.append(excess(parts[0].clone(), *parts[1:]))
        torch.set_num_threads(before)
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 9), st.integers(0, 99))
def test_loss_and_gradients_are_those_of_cross_entropy(rows, columns, width, seed):
    scores, bias, target = case(rows, columns, torch.float64, seed)
    x, weight = scores[:, :1].repeat(1, width) / 4, case(columns, width, torch.float64, seed + 1)[0]
    parts = [t.clone().requires_grad_() for t in (x, weight, bias.double())]
    scale = torch.rand(rows, dtype=torch.float64)
    wanted = functional.cross_entropy(functional.linear(*parts), target, reduction="none")
    found = softmax_nll(*parts, target)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found @ scale, parts), torch.autograd.grad(wanted @ scale, parts), strict=True
    ):
        torch.testing.assert_close(one, other)
    single = [t.detach().float() for t in parts]
    torch.testing.assert_close(softmax_nll(*single, target), wanted.float(), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(softmax_nll(*single, target), wanted.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_type_is_of_no_account(compiled_or_twin, default):
    scores, bias, target = case(6, 50)
    loss, gradient = oracle(scores, bias, target)
    torch.set_default_dtype(default)
    try:
        found, kept = excess(scores, bias, target)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found.double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.double(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_every_type_learn(compiled_or_twin, dtype):
    scores, bias, target = case(8, 60)
    parts = [t.to(dtype).requires_grad_() for t in (scores[:, :8], scores[:, :8].repeat(8, 1)[:60], bias)]
    wide = [t.detach().double().requires_grad_() for t in parts]
    exact = functional.cross_entropy(functional.linear(*wide), target, reduction="none")
    found = softmax_nll(*parts, target)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=2**-5, atol=2**-2)
    wanted = torch.autograd.grad(exact.sum(), wide)
    for one, other in zip(torch.autograd.grad(found.sum(), parts), wanted, strict=True):
        assert (one.double() - other).norm() <= 2**-4 * other.norm()
    with torch.no_grad():
        torch.testing.assert_close(softmax_nll(*parts, target).double(), exact, rtol=2**-5, atol=2**-2)


def test_targets_may_be_narrow_and_must_be_one_for_each_row(compiled):
    scores, bias, target = case(6, 50)
    wanted, _ = excess(scores.clone(), bias, target)
    found = softmax_kernel.softmax(scores.clone(), bias, target.int(), keep=False)
    assert found.equal(wanted)
    with pytest.raises(IndexError, match="must be"):
        softmax_kernel.softmax(scores, bias, target[:3], keep=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("learning", [True, False])
def test_no_target_is_left_out_of_a_loss(compiled_or_twin, dtype, learning):
    """-100, by which torch's cross_entropy leaves a row out, would be a loss of 0 in every mean."""
    x, weight, bias = (
        torch.ones(3, 4, dtype=dtype),
        torch.ones(5, 4, dtype=dtype),
        torch.zeros(5, dtype=dtype),
    )
    with torch.set_grad_enabled(learning):
        for outside in (-100, -1, 5):
            with pytest.raises((IndexError, RuntimeError), match=r"must be in \[0, 5\)|out of bounds"):
                softmax_nll(x, weight, bias, torch.tensor([1, outside, 2]))
        with pytest.raises(IndexError, match=r"it must be \(3,\)"):
            softmax_nll(x, weight, bias, torch.tensor([1, 2]))
        for odd in (torch.tensor([0.0, 1.9, 2.0]), torch.tensor([True, False, True])):
            with pytest.raises(IndexError, match="must be of whole numbers"):
                softmax_nll(x, weight, bias, odd)
        assert softmax_nll(x, weight, bias, torch.tensor([1, 2, 3], dtype=torch.int32)).shape == (3,)


def test_a_penalty_on_its_gradient_is_refused_and_not_left_out(compiled_or_twin):
    """The gradient of a mean has no graph, so that torch's once_differentiable would take it for a constant."""
    x, weight, bias = torch.ones(3, 4, requires_grad=True), torch.ones(5, 4), torch.zeros(5)
    loss = softmax_nll(x, weight.requires_grad_(), bias, torch.tensor([1, 2, 3])).mean()
    (towards,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        (loss + towards.square().sum()).backward()


def test_a_loss_can_be_exported():
    class Loss(torch.nn.Module):
        def forward(self, x, target):
            return softmax_nll(x, torch.ones(5, 4), torch.zeros(5), target)

    example = torch.ones(3, 4), torch.tensor([1, 2, 3])
    with torch.no_grad():
        found = torch.export.export(Loss(), example).module()(*example)
    torch.testing.assert_close(found.exp(), torch.full((3,), 5.0))
