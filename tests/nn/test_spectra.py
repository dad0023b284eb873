"""Analysis of recurrent matrices against closed forms, published totals and definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.nn.maps import Normal, spectra
from sparsernn.nn.maps import schur_form as schur_module
from sparsernn.nn.maps.initialisers import haar
from sparsernn.nn.maps.schur_form import schur_form
from sparsernn.nn.maps.spectra import departure_from_normality, fisher_memory


def delay_line(size, diagonal, below, further=0.0):
    """A Schur form: `diagonal`, `below` on the first diagonal under it, `further` on all others there."""
    ones = torch.ones(size, size, dtype=torch.float64)
    return diagonal * ones.tril().triu() + below * ones.tril(-1).triu(-1) + further * ones.tril(-2)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


def first_axis(size):
    return torch.eye(size)[0]


# --- the Schur form -----------------------------------------------------------------------------------------------


def check_schur(v):
    """Both ways of finding the form, whichever the function would choose."""
    for negligible in (schur_module._NEGLIGIBLE, -1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schur_module, "_NEGLIGIBLE", negligible)
            theta = check_form(v, *schur_form(v))
    return theta


def check_form(v, p, theta, rounding=1e-12):
    n, v = len(v), v.double()
    scale = max(1.0, float(v.norm()))
    torch.testing.assert_close(p.T @ p, torch.eye(n, dtype=torch.float64), atol=rounding, rtol=0)
    torch.testing.assert_close(p @ theta @ p.T, v, atol=rounding * scale, rtol=0)
    assert not theta.triu(2).any(), "blocks of two rows at most"
    above = theta.diagonal(1) != 0
    assert not (above[1:] & above[:-1]).any(), "blocks do not touch"
    for i in above.nonzero().flatten().tolist():
        block = theta[i : i + 2, i : i + 2]
        assert block[0, 1] * block[1, 0] < 0, "a real pair would be two blocks of one row"
        torch.testing.assert_close(block[0, 0], block[1, 1], atol=1e-10 * scale, rtol=1e-8)
    return theta


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([1e-8, 1.0, 1e8]))
def test_schur_form_of_random_matrices(n, seed, scale):
    v = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale
    theta = check_schur(v)
    below = (
        theta.tril(-1) - torch.diag(theta.diagonal(-1) * (theta.diagonal(1) != 0), -1) if n > 1 else theta * 0
    )
    pairs = sum(float((theta[i, i + 1] + theta[i + 1, i]) ** 2) for i in range(n - 1) if theta[i, i + 1] != 0)
    expected = departure_from_normality(v) ** 2
    # ||V||_F^2 - sum |lambda|^2 is what lies below the blocks, and (b + c)^2 of each block [[a, b], [c, a]]
    assert math.isclose(float(below.square().sum()) + pairs, expected, rel_tol=1e-6, abs_tol=1e-9 * scale**2)


@pytest.mark.parametrize(
    "v",
    [
        torch.zeros(4, 4),
        torch.eye(5),
        delay_line(6, 0.0, 1.0),
        delay_line(6, 0.0, 1.0).T,
        torch.eye(6).roll(1, 0),
        torch.tensor([[0.0, 1.0], [-1.0, 0.0]]),
        torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, -3.0, 0.0]]),
        torch.ones(5, 5),
    ],
)
def test_schur_form_of_awkward_matrices(v):
    check_schur(v)


def test_schur_form_of_rotations_shows_their_angles():
    theta = check_schur(haar(9))
    assert theta.tril(-2).abs().max() < 1e-10


def test_schur_form_refuses_what_is_no_matrix():
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        schur_form(torch.zeros(2, 3))
    with pytest.raises(InputError, match="finite"):
        schur_form(torch.full((2, 2), math.nan))


# --- non-normality ------------------------------------------------------------------------------------------------


def test_normal_matrices_have_no_departure():
    for v in (haar(8), torch.diag(torch.randn(8)), torch.eye(8).roll(1, 0)):
        assert departure_from_normality(v) < 1e-6


def test_departure_is_the_norm_below_the_blocks():
    map = Normal(8)
    map.lower.data.normal_()
    assert math.isclose(departure_from_normality(map()), float(map.lower.detach().norm()), rel_tol=1e-5)
    assert departure_from_normality(delay_line(4, 0.0, 2.0), relative=True) == 1.0


def test_powers_of_a_matrix_worked_by_hand():
    """[[0, 0], [2, 0]] doubles a signal before it forgets it; an orthogonal matrix changes no length."""
    assert spectra.power_norms(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), 2).tolist() == pytest.approx(
        [1.0, 2.0, 0.0]
    )
    assert spectra.power_norms(haar(5), 7).tolist() == pytest.approx([1.0] * 8)


def test_the_band_profile_finds_the_delay_line():
    means, errors = spectra.band_profile(delay_line(5, 0.7, -1.0, 0.25))
    assert means.tolist() == [1.0, 0.25, 0.25, 0.25]
    assert errors[:3].tolist() == [0.0] * 3
    assert errors[3].isnan()


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("below", "further", "total"),
    [
        (0.95, 0.0, 3.033),
        (1.0, 0.0, 5.187),
        (1.05, 0.0, 12.087),
        (0.95, 0.005, 3.176),
        (1.0, 0.005, 5.301),
        (1.05, 0.005, 12.087),
    ],
)
def test_memory_totals_are_the_published_ones(below, further, total):
    """Three digits of the paper's table; the rows with a diagonal, which no double computes well, are left out."""
    curve = fisher_memory(delay_line(100, 0.0, below, further), 100, first_axis(100))
    assert float(curve.sum()) == pytest.approx(total, abs=6e-4)


@pytest.mark.parametrize("below", [0.9, 1.0, 1.1])
def test_memory_of_a_pure_delay_line_in_closed_form(below):
    k = torch.arange(30, dtype=torch.float64)
    square = below**2
    expected = square**k * (square - 1) / (square ** (k + 1) - 1) if below != 1 else 1 / (k + 1)
    curve = fisher_memory(delay_line(30, 0.0, below), 31, first_axis(30))
    torch.testing.assert_close(curve[:30], expected, rtol=1e-8, atol=0)
    assert curve[30] == 0


def test_memory_of_a_stable_normal_matrix_adds_up_to_one():
    curve = fisher_memory(0.9 * haar(6), 400, torch.randn(6))
    assert float(curve.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(fisher_memory(0.9 * haar(6), 400).sum()) == pytest.approx(6.0, abs=1e-8)  # over all units


def test_covariance_solves_its_equation():
    v = 0.15 * torch.randn(7, 7, dtype=torch.float64)
    c = spectra.noise_covariance(v)
    torch.testing.assert_close(c, v @ c @ v.T + torch.eye(7, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(spectra.noise_covariance(v, 400), c, atol=1e-12, rtol=0)
    torch.testing.assert_close(fisher_memory(v, 5, noise=2.0), fisher_memory(v, 5) / 2)


def test_orthogonal_matrices_need_a_horizon():
    with pytest.raises(InputError, match="horizon"):
        spectra.noise_covariance(haar(4))
    # ten steps of noise, the same in every direction
    torch.testing.assert_close(
        fisher_memory(haar(4), 3, torch.randn(4), horizon=10), torch.full((3,), 0.1, dtype=torch.float64)
    )
