"""Topology distance: hand-worked, against all permutations, and blind to the order of units."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.sparsity import random_masks, topology_distance
from sparsernn.structure.units import Slice, Units


class Net(nn.Module):
    """Linear layers whose outputs, but for the last, are hidden units."""

    def __init__(self, *sizes):
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairs)

    def units(self):
        pairs = itertools.pairwise(self.layers)
        return [
            Units(f"layer {k}", len(a.weight), (Slice(a, "weight", 0), Slice(b, "weight", 1)))
            for k, (a, b) in enumerate(pairs)
        ]


def masks(model, density, seed):
    """Random masks of all matrices of a model."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(p.shape, generator=generator) < density
        for name, p in model.named_parameters()
        if p.dim() == 2
    }


def relabelled(model, given, seed):
    """The same network with the hidden units in another order, written down slice by slice."""
    generator = torch.Generator().manual_seed(seed)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {name: mask.clone() for name, mask in given.items()}
    done = set()
    for group in model.units():
        order = torch.randperm(group.width, generator=generator)
        for s in group.slices:
            name = names[id(s.parameter)]
            if name not in found or (name, s.dim, id(group)) in done:
                continue
            done.add((name, s.dim, id(group)))
            for start in s.starts:
                own = torch.arange(group.width) + start
                part = found[name].index_select(s.dim, own[order])
                found[name].index_copy_(s.dim, own, part)
    return found


def test_two_units_of_three_inputs_by_hand():
    """Costs: a0 {0,1}, a1 {2}; b0 {2}, b1 {0}. (a0,b1) 1/2 and (a1,b0) 0 are the cheapest pairs."""
    model = Net(3, 2, 1)
    first = {"layers.0.weight": torch.tensor([[1, 1, 0], [0, 0, 1]]) > 0}
    second = {"layers.0.weight": torch.tensor([[0, 0, 1], [1, 0, 0]]) > 0}
    found = topology_distance(first, second, model)
    assert dict(found.layers) == {"layer 0": 0.25}
    assert dict(found.neurons) == {"layer 0": 2}
    # the next layer, one output: reads a0 here and b1 there, which are the same unit now
    first["layers.1.weight"] = torch.tensor([[True, False]])
    second["layers.1.weight"] = torch.tensor([[False, True]])
    assert dict(topology_distance(first, second, model).layers) == {"layer 0": 0.25, "layers.1.weight": 0.0}
    assert topology_distance(first, second, model).overall == 0.125


def test_nothing_in_common_is_1_and_nothing_at_all_is_0():
    model = Net(4, 3, 2)
    left = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    right = {name: mask.clone() for name, mask in left.items()}
    assert topology_distance(left, right, model).overall == 0
    left["layers.0.weight"][:, :2], right["layers.0.weight"][:, 2:] = True, True
    left["layers.1.weight"][0], right["layers.1.weight"][1] = True, True
    assert set(topology_distance(left, right, model).layers.values()) == {1.0}


SIZES = st.tuples(*(st.integers(1, 4) for _ in range(2)))


@settings(max_examples=40)
@given(SIZES, st.floats(0, 1), st.integers(0, 999))
def test_one_layer_is_matched_as_well_as_by_trying_every_permutation(sizes, density, seed):
    model = Net(*sizes, 1)
    a, b = (masks(model, density, seed + k)["layers.0.weight"] for k in (0, 1000))

    def cost(i, j):
        union = int((a[i] | b[j]).sum())
        return int((a[i] ^ b[j]).sum()) / union if union else 0.0

    units = range(len(a))
    best = min(sum(cost(i, j) for i, j in enumerate(order)) for order in itertools.permutations(units))
    found = topology_distance({"layers.0.weight": a}, {"layers.0.weight": b}, model)
    assert found.overall == pytest.approx(best / len(a), abs=1e-12)


MODELS = {
    "net": lambda: Net(5, 4, 3, 2),
    "lstm": lambda: LanguageModel(7, 4, [3, 5]),
    "tied": lambda: LanguageModel(7, 4, [3, 4], tied=True),
    "rhn": lambda: LanguageModel(7, 4, [4], layer={"name": "rhn", "depth": 2}, tied=True),
    "onlstm": lambda: LanguageModel(7, 4, [4], layer={"name": "onlstm", "chunk_size": 2}),
    "blocks": lambda: LanguageModel(7, 4, [6], layer={"name": "block_lstm", "blocks": 2}),
}


@settings(max_examples=25)
@given(st.sampled_from(sorted(MODELS)), st.floats(0, 1), st.integers(0, 999))
def test_it_is_symmetric_within_0_and_1_and_0_for_the_same(name, density, seed):
    model = MODELS[name]()
    first, second = masks(model, density, seed), masks(model, 1 - density, seed + 1000)
    found = topology_distance(first, second, model)
    assert found == topology_distance(second, first, model)
    assert all(0 <= value <= 1 for value in found.layers.values())
    assert topology_distance(first, first, model).overall == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Net(30, 20, 16, 5),
        lambda: LanguageModel(40, 16, [20, 18]),
        lambda: LanguageModel(40, 16, [20, 16], tied=True),
        lambda: LanguageModel(60, 16, [16], layer={"name": "rhn", "depth": 3}, tied=True),
        lambda: LanguageModel(40, 16, [20, 16], layer={"name": "onlstm", "chunk_size": 2}),
    ],
)
def test_a_network_with_its_units_in_another_order_is_the_same(build):
    model = build()
    first = masks(model, 0.4, 1)
    second = relabelled(model, first, 2)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert topology_distance(first, second, model).overall == 0
    other = topology_distance(first, random_masks(first), model)
    assert all(value > 0.3 for value in other.layers.values())


def test_a_unit_takes_the_rows_of_all_its_gates_along():
    """By input gates alone units 0 and 1 would change places; all four gates together keep them."""
    model = nn.Module()
    model.lstm = LanguageModel(3, 4, [2]).layers.members[0]
    model.units = lambda: [Units("cell", 2, model.lstm.outputs())]
    (name,) = (n for n, p in model.named_parameters() if n.endswith("weight_ih"))
    first = torch.zeros(8, 4, dtype=torch.bool)
    first[0::2, 0], first[1::2, 1] = True, True
    second = first.clone()
    second[[0, 1]] = first[[1, 0]]
    assert topology_distance({name: first}, {name: second}, model).overall == pytest.approx(2 / 5)


def test_random_masks_keep_the_number_of_connections():
    given_ = {"a": torch.rand(9, 7) < 0.3, "b": torch.rand(4) < 0.5}
    made = random_masks(given_, seed=3)
    assert {n: (m.shape, int(m.sum())) for n, m in made.items()} == {
        n: (m.shape, int(m.sum())) for n, m in given_.items()
    }
    assert all(torch.equal(made[n], random_masks(given_, seed=3)[n]) for n in made)


def test_what_does_not_fit_is_one_sentence(monkeypatch):
    model = Net(3, 2, 1)
    one = masks(model, 0.5, 1)
    with pytest.raises(InputError, match=r"'layers\.1\.weight' has a mask in one of the networks only"):
        topology_distance(one, {"layers.0.weight": one["layers.0.weight"]}, model)
    with pytest.raises(InputError, match=r"have the shapes \(2, 3\) and \(3, 2\)"):
        topology_distance(one, {**one, "layers.0.weight": one["layers.0.weight"].t()}, model)
    with pytest.raises(InputError, match="the networks are dense"):
        topology_distance({}, {}, model)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(InputError, match=r"pip install 'sparsernn\[analysis\]'"):
        topology_distance(one, one, model)
