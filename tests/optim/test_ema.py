"""Exponential averages of the weights: against a plain loop, after thresholds, taken up again to the bit."""

import copy

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.optim import OPTIMIZERS, ema


def model():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def step(layer, optimizer, number):
    optimizer.zero_grad()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
    layer(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("of", ["adadelta", "adam", "rmsprop", "sgd", {"name": "sgd", "momentum": 0.9}])
@pytest.mark.parametrize("warm_up", [True, False])
def test_the_average_is_that_of_a_plain_loop(of, warm_up):
    layer = model()
    optimizer = ema(layer.parameters(), 0.05, of=of, decay=0.8, warm_up=warm_up)
    expected = None
    for number in range(12):
        step(layer, optimizer, number)
        now = layer.weight.detach().double()
        decay = min(0.8, (1 + number) / (10 + number)) if warm_up else 0.8
        expected = now if expected is None else decay * expected + (1 - decay) * now
    raw = layer.weight.detach().clone()
    with optimizer.averaged():
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.weight, raw)
    assert optimizer.averaging
    assert not optimizer.trigger(1.0)
    assert not optimizer.exhausted


def test_training_itself_is_what_it_is_without_average():
    one, other = model(), model()
    averaging = ema(one.parameters(), 0.05)
    plain = make("optimizer", OPTIMIZERS, "adam", params=other.parameters(), lr=0.05)
    for number in range(3):
        step(one, averaging, number)
        step(other, plain, number)
        with averaging.averaged():
            pass
    assert torch.equal(one.weight, other.weight)


def test_it_takes_the_weights_as_they_are_after_a_threshold():
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = ema([weight], 1.0, of="sgd", decay=0.5, warm_up=False)
    for _ in range(3):
        weight.grad = torch.tensor([0.0, 0.5])
        optimizer.step()
        with torch.no_grad():
            weight[weight < 0.6] = 0.25  # what follows the step; the raw weights: 0.5, -0.25, -0.25
    with optimizer.averaged():
        assert weight.tolist() == [1.0, 0.25]


def test_a_weight_that_is_taken_away_has_no_average():
    weight = nn.Parameter(torch.tensor([2.0, 2.0]))
    optimizer = ema([weight], 0.1, of="sgd", decay=0.9)
    for _ in range(3):
        weight.grad = torch.ones(2)
        optimizer.step()
    weight.data[1] = 0.0
    with optimizer.averaged():
        assert weight[0] > 1
        assert weight[1] == 0
    assert weight[0] < 2


def test_it_is_taken_up_again_to_the_bit():
    layer = model()
    optimizer = ema(layer.parameters(), 0.05, decay=0.9)
    for number in range(4):
        step(layer, optimizer, number)
    saved, twin = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(layer)
    again = ema(twin.parameters(), 0.05, decay=0.9)
    again.load_state_dict(saved)
    for one, its in ((layer, optimizer), (twin, again)):
        for number in range(4, 7):
            step(one, its, number)
    with optimizer.averaged(), again.averaged():
        assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.weight, twin.weight)


def test_a_parameter_without_gradient_keeps_its_weight():
    used, unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = ema([used, unused], 0.1)
    for _ in range(2):
        used.grad = torch.ones(1)
        optimizer.step()
    unused.grad = torch.ones(1)
    optimizer.step()
    with optimizer.averaged():
        assert unused.item() == pytest.approx(0.9)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decays(decay):
    with pytest.raises(InputError, match="decay is"):
        ema([nn.Parameter(torch.ones(1))], 0.1, decay=decay)


@pytest.mark.parametrize(("name", "value"), [("lr", -0.1), ("warm_up", "no"), ("of", 3)])
def test_other_impossible_settings(name, value):
    with pytest.raises(InputError, match=f"{name} is {value!r}; it must be"):
        ema([nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: value})


def test_an_unknown_optimizer():
    with pytest.raises(InputError, match=r"optimizer.of 'adm' is unknown.*'adam'"):
        ema([nn.Parameter(torch.ones(1))], 0.1, of="adm")
