"""The Elman cell: nn.RNN as oracle, every nonlinearity by hand, maps computed once per window."""

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.nn import Elman
from sparsernn.nn.maps import MAPS
from sparsernn.structure.units import Units


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("steps", [5, 30], ids=["loop", "whole window"])
def test_it_is_nn_rnn(nonlinearity, steps):
    torch.manual_seed(0)
    ours, theirs = (
        Elman(4, 24, nonlinearity=nonlinearity),
        nn.RNN(4, 24, nonlinearity=nonlinearity, bias=True),
    )
    theirs.weight_ih_l0.data.copy_(ours.cell.weight_ih)
    theirs.weight_hh_l0.data.copy_(ours.cell.map.weight)
    theirs.bias_ih_l0.data.copy_(ours.cell.bias_ih)
    theirs.bias_hh_l0.data.zero_()
    x = torch.randn(steps, 3, 4)
    y, (h,) = ours(x)
    wanted, h_wanted = theirs(x)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(h, h_wanted[0], rtol=1e-5, atol=1e-6)
    (y * torch.sin(torch.arange(y.numel())).view_as(y)).sum().backward()
    (wanted * torch.sin(torch.arange(y.numel())).view_as(y)).sum().backward()
    torch.testing.assert_close(ours.cell.map.weight.grad, theirs.weight_hh_l0.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.cell.weight_ih.grad, theirs.weight_ih_l0.grad, rtol=1e-3, atol=1e-4)


def test_modrelu_by_hand():
    """b = (-0.5, 0.5, 0.5, 0.5): a dead zone, a jump on either side of 0, and 0 stays 0."""
    layer = Elman(4, 4, nonlinearity="modrelu", input_bias=False)
    layer.cell.weight_ih.data.copy_(torch.eye(4))
    layer.cell.bias_modrelu.data.copy_(torch.tensor([-0.5, 0.5, 0.5, 0.5]))
    y, _ = layer(torch.tensor([[[0.4, 0.1, -0.1, 0.0]]]))
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, 0.6, -0.6, 0.0]))
    y.sum().backward()
    assert layer.cell.bias_modrelu.grad.tolist() == [0.0, 1.0, -1.0, 0.0]


@pytest.mark.parametrize("name", sorted(MAPS))
def test_every_map_drives_a_layer_and_learns(name):
    torch.manual_seed(0)
    layer = Elman(3, 8, map=name, nonlinearity="modrelu")
    layer(torch.randn(6, 2, 3))[0].square().sum().backward()
    own = dict(layer.cell.map.named_parameters())
    assert own
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own.values())


def test_the_map_is_computed_once_per_window(monkeypatch):
    layer, calls = Elman(3, 8, map="orthogonal"), []
    forward = layer.cell.map.forward
    monkeypatch.setattr(layer.cell.map, "forward", lambda: calls.append(1) or forward())
    layer(torch.randn(20, 2, 3))
    assert calls == [1]


def test_units_of_a_structured_map_are_refused_in_one_sentence():
    assert Units("h", 5, Elman(3, 5).outputs()).norms().shape == (5,)
    with pytest.raises(InputError, match="map of Orthogonal"):
        Elman(3, 6, map="orthogonal").outputs()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nonlinearity": "sin"}, "'sin'"),
        ({"input_init": "ones"}, "'ones'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Elman(**{"input_size": 3, "hidden_size": 4, **settings})


def test_the_input_bias_begins_as_in_the_published_code_or_at_zero():
    torch.manual_seed(0)
    drawn = Elman(4, 1000).cell
    bound = 0.5  # 1 / sqrt(4)
    assert drawn.bias_ih.abs().max() <= bound
    assert drawn.bias_ih.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not Elman(4, 5, bias_init="zero").cell.bias_ih.any()
    assert Elman(4, 5, input_bias=False).cell.bias_ih is None


def test_a_seed_draws_the_same_matrices_whatever_the_bias():
    def cell(**settings):
        torch.manual_seed(0)
        return Elman(4, 5, nonlinearity="modrelu", **settings).cell

    one, *others = cell(), cell(bias_init="zero"), cell(input_bias=False)
    for other in others:
        assert torch.equal(one.weight_ih, other.weight_ih)
        assert torch.equal(one.map.weight, other.map.weight)
        assert torch.equal(one.bias_modrelu, other.bias_modrelu)
