"""The GRU against torch's own, and the published initialisation of the LSTM baseline."""

import math

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.nn import GRU, LSTM


def test_it_is_the_gru_of_torch_in_values_and_gradients():
    own, theirs = GRU(3, 5).double(), nn.GRU(3, 5).double()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for name in names:
        getattr(theirs, f"{name}_l0").data.copy_(getattr(own, name).data)
    x, h = torch.randn(7, 2, 3).double(), torch.randn(2, 5).double()
    y, (last,) = own(x, (h,))
    wanted, their_last = theirs(x, h[None])
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(last, their_last[0])
    y.square().sum().backward()
    wanted.square().sum().backward()
    for name in names:
        torch.testing.assert_close(getattr(own, name).grad, getattr(theirs, f"{name}_l0").grad)


def test_dropped_weights_are_drawn_once_per_pass_and_never_in_evaluation():
    layer, x = GRU(3, 40, weight_drop=0.5), torch.randn(7, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GRU(0, 4), "input_size is 0"),
        (lambda: GRU(4, 4, weight_drop=1.0), "weight_drop is 1.0"),
        (lambda: LSTM(4, 4, init="glorot"), "init is 'glorot'; it must be one of uniform, no_bias, xavier"),
    ],
)
def test_impossible_settings_are_one_sentence(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_the_published_lstm_begins_with_one_normal_matrix_per_gate_and_one_bias():
    torch.manual_seed(0)
    layer = LSTM(60, 140, init="xavier")
    for weight in (layer.weight_ih, layer.weight_hh):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (60 + 140 + 140)), rel=0.02)
    assert 0.9 / math.sqrt(200) < layer.bias_ih.abs().max().item() <= 1 / math.sqrt(200)
    layer(torch.randn(5, 2, 60))[0].sum().backward()
    assert layer.bias_hh.grad is None
    assert not layer.bias_hh.any()
