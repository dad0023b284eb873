"""Who masks a weight tells the modules that own it, and nobody else."""

import pytest
import torch
from torch import nn

from sparsernn.sparsity import sparsify
from sparsernn.structure.weight_places import WeightPlaces, hand_out


class Hearer(nn.Module):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(4))
        self.told = {}

    def take_places(self, name, places):
        self.told[name] = places


def make(method="selfish", **settings):
    model = nn.Sequential(Hearer(), nn.Linear(8, 4))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    sparse = sparsify(model, opt, method=method, density=0.5, total_steps=1000, steps_per_epoch=5, **settings)
    return model, opt, sparse


def take_step(model, opt):
    opt.zero_grad()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    opt.step()


def test_the_owner_hears_of_its_masked_weights():
    model, _, sparse = make()
    places = model[0].told["weight"]
    assert list(model[0].told) == ["weight"]
    assert places.mask is sparse.masks()["0.weight"]
    assert places.needs == "never"


def test_every_change_of_a_mask_is_told():
    model, opt, sparse = make(update={"every": 3, "unit": "step"})
    places = model[0].told["weight"]
    versions = [places.version]
    for _ in range(6):
        take_step(model, opt)
        versions.append(places.version)
    first = versions[0]
    assert [v - first for v in versions] == [0, 0, 0, 1, 1, 1, 2]
    sparse.load_state_dict(sparse.state_dict())
    assert places.version == versions[-1] + 1


@pytest.mark.parametrize(
    ("method", "needs"),
    [("rigl", "at_updates"), ("snfs", "always"), ("set", "never"), ("dsr", "never"), ("static", "never")],
)
def test_when_dense_gradients_are_needed(method, needs):
    assert make(method)[0][0].told["weight"].needs == needs


def test_the_step_before_an_update_asks_for_the_dense_gradient():
    model, opt, _ = make("rigl", update={"every": 3})
    places, wanted = model[0].told["weight"], []
    for _ in range(7):
        wanted.append(places.wanted)
        take_step(model, opt)
    assert wanted == [False, False, True, False, False, True, False]


def test_growth_looks_at_what_was_left():
    model, opt, sparse = make("rigl", update={"every": 1}, prune_rate=0.5)
    places, mask = model[0].told["weight"], sparse.masks()["0.weight"].clone()
    signal = torch.rand(4, 8)
    places.leave(signal.clone())
    places.leave(signal.clone())
    torch.testing.assert_close(places.dense, 2 * signal)
    take_step(model, opt)
    grown = sparse.masks()["0.weight"] & ~mask
    assert grown.any()
    assert signal[grown].min() > signal[~mask & ~grown].max()
    assert places.dense is None


def test_gradients_of_a_step_that_does_not_happen_are_forgotten():
    model, _, sparse = make("rigl", update={"every": 1})
    places = model[0].told["weight"]
    places.leave(torch.ones(4, 8))
    sparse.forget_gradients()
    assert places.dense is None
    assert places.wanted


def test_tied_weights_are_told_under_each_name():
    first, second = Hearer(), Hearer()
    second.weight = first.weight
    places = WeightPlaces(torch.ones(4, 8, dtype=torch.bool))
    hand_out(nn.ModuleList([first, second]), [(first.weight, places)])
    assert first.told["weight"] is second.told["weight"] is places
