"""The compiled product of a recurrent step is base + a W^T, whatever the sizes, the layout and the threads."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.kernels import product_kernel
from sparsernn.kernels.product_kernel import Factor, takes

SIZES = [(16, 16), (17, 16), (16, 33), (35, 47), (130, 99), (18, 1025), (21, 2100), (1030, 20), (301, 1024)]
"""Tails of both axes, one to three parts of the inner one, and enough to be shared out."""


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def operands(outputs, inner, rows, turned=False, seed=0):
    """Weight, a (B, H), bias and base."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(inner, outputs, generator=generator).t()
    shapes = ((rows, inner), (outputs,), (rows, outputs))
    others = (torch.randn(shape, generator=generator) for shape in shapes)
    return (weight if turned else weight.contiguous()), *others


def assert_product(got, weight, a, base):
    """To a few roundings of the sum of absolute values, which bounds every order of summation."""
    exact = base.double() + a.double() @ weight.double().t()
    scale = base.double().abs() + a.double().abs() @ weight.double().abs().t()
    assert ((got.double() - exact).abs() <= 2e-6 * scale).all()
    torch.testing.assert_close(
        got, base + torch.mm(a, weight.t()), rtol=1e-4, atol=2e-5 * math.sqrt(a.shape[1])
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("outputs", "inner"), SIZES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13, 20])
def test_it_is_the_product(compiled, outputs, inner, rows, turned):
    weight, a, bias, base = operands(outputs, inner, rows, turned)
    factor, before = Factor(weight), bias.clone()
    assert_product(factor(bias, a), weight, a, bias)
    assert torch.equal(bias, before)
    given = base.clone()
    got = factor(given, a)
    assert_product(got, weight, a, base)
    assert got.data_ptr() == given.data_ptr()


@given(st.integers(16, 70), st.integers(16, 70), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_any_sizes(outputs, inner, rows, turned, seed):
    weight, a, bias, base = operands(outputs, inner, rows, turned, seed)
    if not takes(weight):
        return
    factor = Factor(weight)
    assert_product(factor(bias, a), weight, a, bias)
    assert_product(factor(base.clone(), a), weight, a, base)


@pytest.mark.parametrize("turned", [False, True])
def test_neither_threads_nor_alignment_change_a_bit(compiled, two_threads, turned):
    weight, a, _, base = operands(335, 1230, 7, turned)
    outcomes = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outcomes.append(Factor(weight)(base.clone(), a))
    shifted = torch.empty(weight.numel() + 1)[1:].view_as(weight).copy_(weight)
    outcomes.append(Factor(shifted)(base.clone(), a))
    assert all(torch.equal(outcomes[0], other) for other in outcomes[1:])


def test_rows_do_not_meet(compiled):
    """A NaN or an infinity stays in its row, and is not lost."""
    weight, a, bias, _ = operands(37, 45, 8)
    clean = Factor(weight)(bias, a)
    a[2, 44], a[5, 0] = math.nan, math.inf
    got = Factor(weight)(bias, a)
    assert got[2].isnan().all()
    assert got[5].isinf().all()
    others = [0, 1, 3, 4, 6, 7]
    assert torch.equal(got[others], clean[others])


def test_nothing_is_read_beyond_the_ends(compiled):
    """Numbers around the operands are NaN, and do not show."""
    for outputs, inner in SIZES[:6]:
        weight, a, bias, base = operands(outputs, inner, 5)
        fenced = []
        for tensor in (weight, a, bias, base):
            room = torch.full((tensor.numel() + 128,), math.nan)
            fenced.append(room[64:-64].view(tensor.shape).copy_(tensor))
        assert torch.equal(Factor(fenced[0])(fenced[2], fenced[1]), Factor(weight)(bias, a))
        assert torch.equal(Factor(fenced[0])(fenced[3], fenced[1]), Factor(weight)(base, a))


def test_operands_of_other_strides_are_copied(compiled):
    weight, a, _, base = operands(40, 30, 6)
    wanted = Factor(weight)(base.clone(), a)
    assert torch.equal(Factor(weight)(base.t().contiguous().t(), a.t().contiguous().t()), wanted)
    wide = torch.zeros(6, 60)
    wide[:, ::2] = a
    assert torch.equal(Factor(weight)(base.clone(), wide[:, ::2]), wanted)


def test_no_rows_no_work(compiled):
    assert Factor(torch.ones(16, 16))(torch.ones(16), torch.ones(0, 16)).shape == (0, 16)


def test_what_does_not_fit_is_refused(compiled):
    factor = Factor(torch.zeros(20, 16))
    for base, a in [((19,), (2, 16)), ((20,), (2, 20)), ((3, 20), (2, 16)), ((20,), (16,))]:
        with pytest.raises(InputError, match=r"\(20, 16\) met"):
            factor(torch.zeros(base), torch.zeros(a))
    with pytest.raises(InputError, match="float64"):
        factor(torch.zeros(20), torch.zeros(2, 16).double())
    for weight in (torch.zeros(20, 15), torch.zeros(20, 16).double(), torch.zeros(20, 40)[:, ::2]):
        assert not takes(weight)
        with pytest.raises(InputError, match="takes"):
            Factor(weight)


def test_without_a_library_nothing_is_taken(monkeypatch):
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    assert not takes(torch.zeros(20, 20))
    with pytest.raises(InputError, match="takes"):
        product_kernel.Factor(torch.zeros(20, 20))
