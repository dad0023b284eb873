"""Gradients against the time lag: what is known in closed form, and autograd on a plain loop."""

import pytest
import torch

from sparsernn.nn import GRU, LSTM, Elman
from sparsernn.nn.gradient_reach import gradient_by_lag


def last(y):
    """Half the squared length of the last output."""
    return y[-1].square().sum() / 2


def test_a_contraction_loses_the_same_factor_at_every_step():
    layer = Elman(2, 5, nonlinearity="none").double()
    layer.cell.map.weight.data.copy_(0.5 * torch.eye(5))
    norms = gradient_by_lag(layer, torch.randn(8, 3, 2).double(), last)
    torch.testing.assert_close(norms, norms[0] * 0.5 ** torch.arange(8, dtype=torch.float64))


def test_an_orthogonal_network_without_nonlinearity_loses_nothing():
    layer = Elman(2, 6, nonlinearity="none", map="orthogonal")
    norms = gradient_by_lag(layer, torch.randn(40, 3, 2), last)
    torch.testing.assert_close(norms, norms[0].expand(40), rtol=1e-4, atol=0)


def test_only_the_steps_before_the_scored_one_are_reached():
    norms = gradient_by_lag(Elman(2, 4), torch.randn(6, 3, 2), lambda y: y[2].sum())
    assert not norms[:3].any()
    assert (norms[3:] > 0).all()


@pytest.mark.parametrize("kind", [LSTM, GRU, Elman])
def test_a_change_of_the_state_changes_the_score_by_its_gradient(kind):
    torch.manual_seed(0)
    layer, x = kind(2, 1).double(), torch.randn(7, 1, 2).double()
    lag, size = 3, 1e-6
    norms = gradient_by_lag(layer, x, last)
    _, state = layer(x[: 7 - lag])
    slopes = []
    for part in range(len(state)):
        scores = []
        for sign in (1, -1):
            moved = [s.detach() + sign * size * (k == part) for k, s in enumerate(state)]
            scores.append(last(layer(x[7 - lag :], tuple(moved))[0]).item())
        slopes.append((scores[0] - scores[1]) / (2 * size))
    assert norms[lag].item() == pytest.approx(sum(s * s for s in slopes) ** 0.5, rel=1e-4)
    assert all(p.grad is None for p in layer.parameters())


def test_frozen_layers_can_be_asked_too():
    layer = Elman(2, 4).requires_grad_(False)
    assert (gradient_by_lag(layer, torch.randn(6, 3, 2), last) > 0).all()
