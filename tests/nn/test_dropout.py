"""The dropouts of many numbers, four of one draw, and of few, as torch has them."""

import pytest
import torch
from torch.nn import functional

from sparsernn.nn.dropout import QUICK_FROM, drop, drop_weight


@pytest.mark.parametrize("use", [drop, drop_weight])
def test_many_numbers_are_dropped_at_the_given_rate(use):
    x = torch.full((60, 20, 50), 2.0, requires_grad=True)
    torch.manual_seed(3)
    y = use(x, 0.3, True)
    # 60,000 draws: four deviations of a share of 0.3 are 0.0075
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.0075)
    assert y.max().item() == pytest.approx(2 / 0.7, rel=1e-4)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 2)
    torch.manual_seed(3)
    assert torch.equal(use(x, 0.3, True), y)
    assert use(x, 0.3, False) is x


def test_neighbours_that_share_a_draw_know_nothing_of_each_other():
    torch.manual_seed(1)
    fours = (drop(torch.ones(4 * QUICK_FROM), 0.5, True) > 0).view(-1, 4).float()
    together = (fours.T @ fours / len(fours)).fill_diagonal_(0.25)
    assert (together - 0.25).abs().max() < 0.02  # four deviations of a quarter among 8,192


def test_few_numbers_are_torchs():
    x = torch.randn(QUICK_FROM - 1)
    torch.manual_seed(2)
    expected = functional.dropout(x, 0.4)
    torch.manual_seed(2)
    assert torch.equal(drop(x, 0.4, True), expected)


@pytest.mark.parametrize(("p", "dropped"), [(0.999995, 0.999995), (5e-6, 5e-6), (0.0, 0.0)])
def test_rates_near_the_ends_are_kept(p, dropped):
    """Where a multiple of 1 / 65536 would be all or nothing."""
    torch.manual_seed(0)
    share = (drop(torch.ones(1000, 1000), p, True) == 0).float().mean().item()
    assert share == pytest.approx(dropped, abs=1.2e-5)  # five deviations among a million
