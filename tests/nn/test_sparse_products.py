"""Products of sparse matrices in training are those of the dense one with zeros, forward, back, and at its places."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.kernels.sparse_products import SparseFactor, sparse_product, value_gradient

ROWS = (1, 3, 4, 5, 8, 13, 16, 20, 24, 31, 32, 33, 50, 64)
"""Tails of every vector width, and one to three tiles."""
SHAPES = [(16, 16), (1, 1), (7, 5), (32, 300), (45, 33), (130, 99), (20, 530), (600, 40)]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_mask(rows, columns, density, tall, seed=0, gates=1):
    """A random mask of single weights or of blocks, with an empty and a full row (or panel) where there is room.

    Strips of blocks begin anew in every gate; the last gate takes the rows that are left over.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for height in [rows // gates] * (gates - 1) + [rows - rows // gates * (gates - 1)]:
        grid = torch.rand(-(-height // tall), columns, generator=generator) < density
        if len(grid) > 2:
            grid[0], grid[-1] = False, True
        parts.append(grid.repeat_interleave(tall, 0)[:height])
    return torch.cat(parts)


def make_case(rows, columns, density, tall, n, seed=0, kind=torch.float32, gates=1):
    """Layout, dense matrix, x (N, C), y (N, R), and a bias for each side."""
    mask = make_mask(rows, columns, density, tall, seed, gates)
    generator = torch.Generator().manual_seed(seed + 1)
    shapes = ((rows, columns), (n, columns), (n, rows), (rows,), (columns,))
    weight, *others = (torch.randn(shape, generator=generator).to(kind) for shape in shapes)
    return Layout(mask), weight * mask, *others


def assert_sum(got, a, b, base=0.0):
    """To a few roundings of the sum of absolute values, which bounds every order of summation."""
    a, b = a.double(), b.double()
    scale = a.abs() @ b.abs() + abs(base)
    assert got.shape == scale.shape
    assert ((got.double() - (a @ b + base)).abs() <= 3e-6 * scale + 1e-30).all()


def assert_products(rows, columns, density, tall, n, seed=0, gates=1):
    layout, dense, x, y, bias, other = make_case(rows, columns, density, tall, n, seed, gates=gates)
    factor = SparseFactor(layout, layout.take(dense))
    assert_sum(factor.forward(None, x), x, dense.t())
    assert_sum(factor.back(None, y), y, dense)
    assert_sum(factor.forward(bias, x), x, dense.t(), bias.double())
    assert_sum(factor.back(other, y), y, dense, other.double())
    base = y.clone()
    after = factor.forward(base, x)
    assert after.data_ptr() == base.data_ptr()
    assert_sum(after, x, dense.t(), y.double())
    base = x.clone()
    assert_sum(factor.back(base, y), y, dense, x.double())
    mask = layout.put(torch.ones(layout.size)) > 0
    got = layout.put(value_gradient(layout, x, y))
    assert not got[~mask].any()
    exact, scale = y.double().t() @ x.double(), y.double().abs().t() @ x.double().abs()
    assert (((got.double() - exact).abs() <= 3e-6 * scale + 1e-30) | ~mask).all()


@pytest.mark.parametrize("tall", [1, 16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_they_are_the_dense_ones(compiled_or_twin, rows, columns, tall):
    for n in ROWS:
        assert_products(rows, columns, 0.3, tall, n)


@pytest.mark.parametrize(("rows", "columns", "gates"), [(9, 3, 1), (36, 2, 1), (50, 3, 2)])
def test_blocks_in_triton_are_the_dense_ones(interpreted, rows, columns, gates):
    assert_products(rows, columns, 0.5, 16, n=35, gates=gates)
    assert set(interpreted.launched) == {"_forward", "_back", "_gradient"}


def test_no_rows_and_no_weights_are_no_kernel(interpreted):
    assert_products(20, 3, 0.0, 16, 0)
    layout = Layout(torch.zeros(20, 3, dtype=torch.bool))
    assert value_gradient(layout, torch.ones(2, 3), torch.ones(2, 20)).shape == (0,)
    y = SparseFactor(layout, torch.zeros(0)).forward(torch.ones(20), torch.ones(2, 3))
    assert torch.equal(y, torch.ones(2, 20))


@pytest.mark.parametrize("tall", [1, 16])
@pytest.mark.parametrize("n", [128, 129, 300, 515])
def test_windows_take_several_tiles(compiled, n, tall):
    assert_products(67, 270, 0.2, tall, n)


@given(
    st.integers(1, 70),
    st.integers(1, 300),
    st.sampled_from([0.0, 0.05, 0.3, 0.8, 1.0]),
    st.sampled_from([1, 16, 16]),
    st.integers(1, 70),
    st.integers(0, 99),
    st.integers(1, 4),
)
def test_any_shape_and_density(rows, columns, density, tall, n, seed, gates):
    assert_products(rows, columns, density, tall, n, seed, min(gates, rows))


@pytest.mark.parametrize("tall", [1, 16])
def test_a_matrix_without_weights_gives_the_base(compiled_or_twin, tall):
    layout = Layout(torch.zeros(33, 20, dtype=torch.bool))
    factor = SparseFactor(layout, torch.zeros(0))
    x, y, bias = torch.randn(5, 20), torch.randn(5, 33), torch.randn(33)
    assert torch.equal(factor.forward(bias, x), bias.expand(5, 33))
    assert not factor.back(None, y).any()
    assert value_gradient(layout, x, y).shape == (0,)
    assert layout.count == layout.size == 0


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_a_matrix_without_rows_or_columns(compiled_or_twin, shape):
    layout = Layout(torch.zeros(shape, dtype=torch.bool))
    factor = SparseFactor(layout, torch.zeros(0))
    assert torch.equal(factor.forward(None, torch.ones(3, shape[1])), torch.zeros(3, shape[0]))
    assert torch.equal(factor.back(None, torch.ones(3, shape[0])), torch.zeros(3, shape[1]))


@pytest.mark.parametrize("tall", [1, 16])
def test_no_rows_no_work(compiled_or_twin, tall):
    layout, dense, x, y, *_ = make_case(40, 30, 0.3, tall, 0)
    factor = SparseFactor(layout, layout.take(dense))
    assert factor.forward(None, x).shape == (0, 40)
    assert factor.back(None, y).shape == (0, 30)
    assert not value_gradient(layout, x, y).any()


@pytest.mark.parametrize("tall", [1, 16])
def test_threads_do_not_change_a_bit(compiled, threads, tall):
    layout, dense, x, y, *_ = make_case(335, 410, 0.2, tall, 70)
    outcomes = []
    for number in (1, 2, 3):
        threads(number)
        factor = SparseFactor(layout, layout.take(dense))
        outcomes.append((factor.forward(None, x), factor.back(None, y), value_gradient(layout, x, y)))
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.parametrize("tall", [1, 16])
def test_rows_do_not_meet(compiled, tall):
    """A NaN stays in its row, and what no weight reads is not read."""
    layout, dense, x, y, *_ = make_case(37, 45, 0.4, tall, 8)
    factor = SparseFactor(layout, layout.take(dense))
    clean = factor.forward(None, x), factor.back(None, y)
    x[2], y[3] = math.nan, math.nan
    others = [0, 1, 4, 5, 6, 7]
    assert torch.equal(factor.forward(None, x)[others], clean[0][others])
    assert torch.equal(factor.back(None, y)[others], clean[1][others])
    assert factor.forward(None, x)[2, -1].isnan()


@pytest.mark.parametrize("tall", [1, 16])
def test_values_are_taken_and_put(compiled_or_twin, tall):
    layout, dense, *_ = make_case(45, 300, 0.3, tall, 1)
    assert torch.equal(layout.put(layout.take(dense)), dense)
    assert layout.blocks == (tall == 16)
    assert layout.count == int((dense != 0).sum())
    assert layout.density == layout.count / dense.numel()


def test_blocks_that_would_be_filled_up_to_more_than_twice_their_size_are_single_weights():
    assert not Layout(make_mask(32, 20, 0.3, 4)).blocks
    assert not Layout(torch.ones(7, 4, dtype=torch.bool)).blocks
    for mask in (make_mask(32, 20, 0.3, 8), make_mask(43, 20, 0.3, 16), make_mask(40, 20, 0.3, 16, gates=4)):
        layout = Layout(mask)
        assert layout.blocks
        assert layout.size <= 2 * layout.count == 2 * int(mask.sum())


@pytest.mark.parametrize("n", [1, 20])
def test_rows_of_the_next_gate_are_neither_read_nor_written(compiled_or_twin, n):
    """A NaN in the rows of a gate of 21 stays there, and a panel that is lower than 16 writes its rows only."""
    layout, dense, x, y, *_ = make_case(42, 9, 1.0, 16, n, gates=2)
    factor = SparseFactor(layout, layout.take(dense))
    base = y.clone()
    after = factor.forward(base.clone(), x)
    assert_sum(after, x, dense.t(), y.double())
    y[:, 21:] = math.nan
    got = layout.put(value_gradient(layout, x, y))
    assert got[:21].isfinite().all()
    assert got[21:].isnan().all()
    assert torch.equal(layout.put(layout.take(dense)), dense)


@pytest.mark.parametrize("tall", [1, 16])
def test_gradients_in_double_precision(tall):
    layout, dense, x, *_ = make_case(18, 7, 0.4, tall, 3, kind=torch.float64)
    values = layout.take(dense).requires_grad_()
    inside = values != 0  # a padded block's numbers beyond the last row are no weights
    x.requires_grad_()

    def product(x, some):
        return sparse_product(layout, x, values.detach().masked_scatter(inside, some))

    assert torch.autograd.gradcheck(product, (x, values.detach()[inside].requires_grad_()))


@pytest.mark.parametrize("tall", [1, 16])
def test_gradients_are_those_of_the_masked_dense_matrix(tall):
    layout, dense, x, y, *_ = make_case(70, 90, 0.2, tall, 25, kind=torch.float64)
    mask = layout.put(torch.ones(layout.size)) > 0
    values, weight = layout.take(dense).requires_grad_(), dense.clone().requires_grad_()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(
        sparse_product(layout, ours, values), theirs @ (weight * mask).t(), rtol=0, atol=1e-10
    )
    sparse_product(layout, ours, values).backward(y)
    (theirs @ (weight * mask).t()).backward(y)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(layout.put(values.grad), weight.grad, rtol=0, atol=1e-10)


def test_what_does_not_fit_is_refused(compiled_or_twin):
    layout = Layout(torch.eye(20, dtype=torch.bool))
    factor = SparseFactor(layout, torch.ones(20))
    for base, x in [(None, (2, 19)), ((19,), (2, 20)), ((3, 20), (2, 20)), (None, (20,))]:
        with pytest.raises(InputError, match=r"they must be of one type, \(N, 20\)"):
            factor.forward(None if base is None else torch.ones(base), torch.ones(x))
    with pytest.raises(InputError, match="float64"):
        factor.back(None, torch.ones(2, 20).double())
    with pytest.raises(InputError, match="20 places"):
        SparseFactor(layout, torch.ones(21))
    with pytest.raises(InputError, match="20 places"):
        layout.put(torch.ones(19))
    with pytest.raises(InputError, match="must agree"):
        layout.take(torch.ones(20, 21))
    with pytest.raises(InputError, match="met a layout"):
        value_gradient(layout, torch.ones(2, 20), torch.ones(3, 20))
    with pytest.raises(InputError, match="bool"):
        Layout(torch.ones(3, 3))
    with pytest.raises(InputError, match="below 65536"):
        Layout(torch.zeros(1, 65536, dtype=torch.bool))
