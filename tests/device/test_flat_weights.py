"""Weights lie side by side for cuDNN, without a copy in every window."""

import copy

import pytest
import torch
from pretended_cuda import pretended

from sparsernn.core.devices import moved
from sparsernn.nn import GRU, LSTM
from sparsernn.nn.blocks.block_lstm import BlockLSTM
from sparsernn.nn.drive import loop_choice
from sparsernn.sparsity.trained.weight_inputs import InputRecorder

DEVICE = torch.device("cuda", 0)
LAYERS = {
    "lstm": lambda drop: LSTM(3, 4, weight_drop=drop),
    "gru": lambda drop: GRU(3, 4, weight_drop=drop),
    "blocks": lambda drop: BlockLSTM(4, 4, blocks=2, weight_drop=drop, bidirectional=True),
}


def flattenings(monkeypatch):
    """Counts how often weights are laid side by side."""
    calls, flatten = [], torch._cudnn_rnn_flatten_weight
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *args: (calls.append(1), flatten(*args)))
    return calls


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("name", LAYERS)
def test_they_are_laid_once_and_trained_where_they_lie(name, drop, monkeypatch):
    torch.manual_seed(0)
    layer = LAYERS[name](drop)
    twin, x = copy.deepcopy(layer), torch.randn(5, 2, layer.input_size)
    with pretended() as device:
        calls = flattenings(monkeypatch)
        layer.to(DEVICE)
        optimizer, there = torch.optim.SGD(layer.parameters(), lr=0.1), moved(x, DEVICE)
        for _ in range(3):
            optimizer.zero_grad()
            layer(there)[0].square().sum().backward()
            optimizer.step()
            layer.weight_hh_0.data.mul_(1.0) if name == "blocks" else layer.weight_hh.data.mul_(
                1.0
            )  # as masks do
        assert len(calls) == (2 if name == "blocks" else 1)
        assert device.scattered == []
        here = {key: value.cpu() for key, value in layer.state_dict().items()}
    monkeypatch.undo()
    if not drop:  # dropouts are each device's own
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            twin(x)[0].square().sum().backward()
            optimizer.step()
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(here[key], value)


@pytest.mark.parametrize("twice", [False, True])
def test_the_gradient_is_that_of_the_weights_that_were_kept(twice):
    """Found by asking what a window gave with the weights that it was given."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, weight_drop=0.5)
    x = torch.randn(5, 2, 3)
    with pretended() as device:
        layer.to(DEVICE)
        there, given, gathered = moved(x, DEVICE), [], layer._flat.gathered
        layer._flat.gathered = lambda *args: given.append(gathered(*args)) or given[-1]
        outputs = [layer(there)[0] for _ in range(1 + twice)]
        dropped = [weights[1].detach().cpu().clone() for weights in given]
        for y in outputs:
            y.square().sum().backward()
        assert device.scattered == []
        found, whole = layer.weight_hh.grad.cpu(), layer.weight_hh.detach().cpu()
        others = [p.detach().cpu() for p in (layer.weight_ih, layer.bias_ih, layer.bias_hh)]
    wanted = torch.zeros_like(found)
    for weight in dropped:
        kept = (weight != 0).float() * 2  # scaled by 1 / (1 - 0.5)
        torch.testing.assert_close(weight, whole * kept)
        leaf = whole.clone().requires_grad_()
        zeros = torch.zeros(1, 2, 4)
        weights = [others[0], leaf * kept, *others[1:]]
        y, _, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
        wanted += torch.autograd.grad(y.square().sum(), leaf)[0]
    torch.testing.assert_close(found, wanted)
    assert not twice or not torch.equal(*dropped)


def test_a_copy_and_a_state_that_is_read_have_places_of_their_own():
    layer = LSTM(3, 4)
    with pretended() as device:
        layer.to(DEVICE)
        there = moved(torch.ones(2, 1, 3), DEVICE)
        layer(there)
        twin = copy.deepcopy(layer)
        twin.weight_hh.data.mul_(2.0)
        assert not torch.equal(twin.weight_hh.cpu(), layer.weight_hh.cpu())
        twin(there)
        twin.weight_ih.data = twin.weight_ih.data.clone()
        twin(there)
        assert device.scattered == []


def test_the_place_of_dropped_weights_is_of_their_type():
    layer, x = LSTM(3, 4, weight_drop=0.5), torch.randn(5, 2, 3)
    with pretended():
        layer.to(DEVICE)
        layer(moved(x, DEVICE))[0].sum().backward()
        layer.double()
        layer(moved(x.double(), DEVICE))
        assert [place.dtype for place in layer._flat._places] == [torch.float64]


def test_on_the_plain_loop_blocks_go_one_by_one(monkeypatch):
    """As those ask who watch what weights read."""
    monkeypatch.setattr(loop_choice, "fastest", lambda kind, steps, ways, device: list(ways)[-1])
    layer = LAYERS["blocks"](0.0)
    with pretended():
        layer.to(DEVICE)
        there, seen = moved(torch.randn(5, 2, layer.input_size), DEVICE), []
        for layer.naive in (False, True):
            with InputRecorder(dict(layer.named_parameters()), gather=False) as recorder:
                layer(there)
            seen.append(len(recorder.moments))
    assert seen[0] < seen[1] == 8


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_what_weights_read_is_seen_in_the_window_that_lays_them(name):
    layer, x = LAYERS[name](0.0), torch.randn(5, 2, 3)
    with pretended():
        layer.to(DEVICE)
        there = moved(x, DEVICE)
        with InputRecorder(dict(layer.named_parameters()), gather=False) as recorder:
            layer(there)
    assert list(recorder.moments) == ["weight_ih", "weight_hh"]
