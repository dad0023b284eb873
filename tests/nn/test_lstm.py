"""The LSTM against torch's own and against the equations written as a loop."""

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.nn import LSTM, Stack


def twin(layer: LSTM) -> nn.LSTM:
    other = nn.LSTM(layer.input_size, layer.hidden_size).to(layer.weight_hh.dtype)
    for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        theirs.data.copy_(mine)
    return other


def loop(layer: LSTM, x, h, c):
    ys = []
    for x_t in x:
        pre = x_t @ layer.weight_ih.T + layer.bias_ih + h @ layer.weight_hh.T + layer.bias_hh
        i, f, g, o = pre.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return torch.stack(ys), h, c


def test_equals_nn_lstm_in_output_state_and_gradient():
    torch.manual_seed(0)
    layer, x = LSTM(4, 6).double(), torch.randn(7, 3, 4, dtype=torch.double)
    other = twin(layer)
    state = (torch.randn(3, 6, dtype=torch.double), torch.randn(3, 6, dtype=torch.double))
    y, (h, c) = layer(x, state)
    y2, (h2, c2) = other(x, tuple(s.unsqueeze(0) for s in state))
    for mine, theirs in ((y, y2), (h, h2[0]), (c, c2[0])):
        torch.testing.assert_close(mine, theirs)
    y.square().sum().backward()
    y2.square().sum().backward()
    for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_equals_the_equations():
    torch.manual_seed(0)
    layer, x = LSTM(4, 6).double(), torch.randn(7, 3, 4, dtype=torch.double)
    y, (h, c) = layer(x)
    expected = loop(layer, x, *layer.initial_state(3))
    for mine, theirs in zip((y, h, c), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_weight_drop_acts_on_recurrent_weights_in_training_only():
    torch.manual_seed(0)
    layer, x = LSTM(4, 50, weight_drop=0.5), torch.randn(7, 3, 4)
    torch.testing.assert_close(
        layer(x[:1])[0], layer.eval()(x[:1])[0]
    )  # h = 0 in the first step: W_hh plays no part
    layer.train()
    assert not torch.allclose(layer(x)[0], layer(x)[0])
    layer.eval()
    torch.testing.assert_close(layer(x)[0], twin(layer)(x)[0])


def test_dropped_recurrent_weights_get_no_gradient():
    torch.manual_seed(0)
    layer = LSTM(4, 50, weight_drop=0.5)
    layer(torch.randn(7, 3, 4))[0].square().sum().backward()
    dropped = (layer.weight_hh.grad == 0).double().mean()
    assert 0.47 < dropped < 0.53


def test_lengths_stop_each_sequence_where_it_ends():
    torch.manual_seed(0)
    layer, x, lengths = LSTM(4, 6), torch.randn(7, 3, 4), torch.tensor([2, 7, 5])
    y, (h, c) = layer(x, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, (h_b, c_b) = layer(x[:length, b : b + 1])
        torch.testing.assert_close(y[:length, b : b + 1], alone)
        assert y[length:, b].abs().sum() == 0
        torch.testing.assert_close(h[b], h_b[0])
        torch.testing.assert_close(c[b], c_b[0])


def test_batch_first_transposes_both_sides():
    torch.manual_seed(0)
    layer, x = LSTM(4, 6, batch_first=True), torch.randn(3, 7, 4)
    y, _ = layer(x)
    layer.batch_first = False
    torch.testing.assert_close(y, layer(x.transpose(0, 1))[0].transpose(0, 1))


def test_stack_equals_stacked_nn_lstm():
    torch.manual_seed(0)
    stack, other = Stack([LSTM(4, 6), LSTM(6, 6)]), nn.LSTM(4, 6, num_layers=2)
    for mine, theirs in zip(stack.parameters(), other.parameters(), strict=True):
        theirs.data.copy_(mine)
    x = torch.randn(7, 3, 4)
    y, state = stack(x)
    y2, (_h, c) = other(x)
    torch.testing.assert_close(y, y2)
    torch.testing.assert_close(torch.stack([s[1] for s in state]), c)


@pytest.mark.parametrize("settings", [{"weight_drop": 1.0}, {"weight_drop": -0.1}])
def test_refuses_impossible_settings(settings):
    with pytest.raises(InputError, match="weight_drop is"):
        LSTM(3, 4, **settings)
    with pytest.raises(InputError, match=r"input_size is 0|hidden_size is 0"):
        LSTM(0, 4)
