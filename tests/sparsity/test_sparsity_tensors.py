"""Which tensors, how dense, in which blocks; and what the settings refuse."""

import math

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.sparsity import DynamicSparse, parse
from sparsernn.sparsity.dynamic.engine_settings import accepted

ALL = ["embedding.weight", *(f"rnn.weight_{k}_l{n}" for n in (0, 1) for k in ("ih", "hh")), "head.weight"]


def engine(model, density=0.25, seed=0, **settings):
    return DynamicSparse(model, parse({"density": density, **settings}), seed=seed)


def densities(sparsifier):
    return {name: entry["density"] for name, entry in sparsifier.summary()["tensors"].items()}


def test_matrices_are_masked_and_biases_and_norms_are_not(trainer):
    assert list(engine(trainer().model).masks()) == ALL


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"include": ["*.weight_hh*"]}, ["rnn.weight_hh_l0", "rnn.weight_hh_l1"]),
        ({"exclude": ["rnn.*"]}, ["embedding.weight", "head.weight"]),
        ({"include": ["rnn.*"], "exclude": ["*_l1"]}, ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
        ({"include": ["head.weight"]}, ["head.weight"]),
    ],
)
def test_globs(settings, names, trainer):
    assert list(engine(trainer().model, **settings).masks()) == names


def test_a_tied_weight_answers_to_both_names(trainer):
    model = trainer(tied=True).model
    assert list(engine(model, include=["head.weight"]).masks()) == ["embedding.weight"]
    assert "embedding.weight" not in engine(model, exclude=["head.weight"]).masks()
    assert densities(engine(model, densities={"head.*": 0.5}))["embedding.weight"] == 0.5


def test_frozen_parameters_and_shared_modules():
    model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    model[0].weight.requires_grad_(False)
    model.append(model[1])
    assert list(engine(model).masks()) == ["1.weight"]


def test_densities_of_their_own(trainer):
    found = densities(engine(trainer().model, densities={"rnn.weight_hh_l0": 1.0, "rnn.*": 0.5}))
    assert found["rnn.weight_hh_l0"] == 1.0
    assert found["rnn.weight_ih_l1"] == 0.5
    assert found["head.weight"] == 0.25


def test_erdos_renyi_shares_among_the_tensors_without_a_density_of_their_own(trainer):
    sparsifier = engine(trainer().model, init="erdos_renyi", densities={"embedding.weight": 0.5})
    found = sparsifier.summary()["tensors"]
    assert found["embedding.weight"]["density"] == 0.5
    others = [entry for name, entry in found.items() if name != "embedding.weight"]
    assert sum(e["active"] for e in others) == round(0.25 * sum(e["numel"] for e in others))


@pytest.mark.parametrize("init", ["uniform", "erdos_renyi"])
def test_initial_counts_are_exact(init, trainer):
    sparsifier = engine(trainer().model, 0.33, init=init)
    summary = sparsifier.summary()
    if init == "uniform":
        assert all(abs(e["active"] - 0.33 * e["numel"]) < 1 for e in summary["tensors"].values())
        assert summary["masked_active"] == round(0.33 * summary["masked_total"])
    else:
        assert summary["masked_active"] == round(0.33 * summary["masked_total"])


@pytest.mark.parametrize("how", [{"init": "uniform_bernoulli"}, {"exact": False}, {"faithful": True}])
def test_coin_flips_are_near_but_not_exact(how):
    sparsifier = engine(nn.Linear(300, 400, bias=False), **how)
    active = sparsifier.summary()["masked_active"]
    assert active != 30_000
    assert abs(active - 30_000) < 5 * math.sqrt(120_000 * 0.25 * 0.75)
    sparsifier.end_epoch()
    assert sparsifier.summary()["masked_active"] == active  # whatever was drawn is kept exactly


def test_weights_are_zero_from_the_start_and_fan_in_rescales():
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    dense = model.weight.detach().clone()
    mask = engine(model, rescale="fan_in").masks()["weight"]
    assert torch.equal(model.weight, dense * mask * 2)  # 1 / sqrt(0.25)


@pytest.mark.parametrize("block", [(16, 1), (1, 16), (4, 4), (2, 8), (8, 2)])
@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"grow": "gradient"},
        {"redistribute": "magnitude", "grow": "momentum"},
        {"prune": "global_magnitude", "init": "erdos_renyi"},
        {"gate_scope": "cell"},
        {"prune": "threshold", "tau": 0.15},
    ],
)
def test_blocks_live_and_die_as_a_whole(block, rules, trainer):
    t = trainer("momentum", width=16, vocabulary=16)
    sparsifier = DynamicSparse(t.model, parse({"density": 0.3, "block": block, **rules}), t.optimizer, seed=1)
    total = sparsifier.summary()["masked_active"]
    numel = sparsifier.summary()["masked_total"]
    assert abs(total - 0.3 * numel) <= 6 / 2 * block[0] * block[1]
    for k in range(6):
        t.step(k)
        sparsifier.after_step()
        if k % 2:
            told = sparsifier.end_epoch()[0]
            assert sum(e["pruned"] for e in told["tensors"].values()) > 0
        assert sparsifier.summary()["masked_active"] == total
        for name, mask in sparsifier.masks().items():
            rows, columns = mask.shape[0] // block[0], mask.shape[1] // block[1]
            inside = mask.view(rows, block[0], columns, block[1]).sum((1, 3))
            assert set(inside.unique().tolist()) <= {0, block[0] * block[1]}
            assert not t.model.get_parameter(name)[~mask].any()


def test_blocks_are_pruned_by_their_mean_magnitude():
    model = nn.Linear(4, 2, bias=False)
    sparsifier = engine(model, 1.0, block=(1, 2))
    sparsifier.tensors[0].mask[1] = False
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-2.0, 2.0, 1.0, 1.5], [0.0, 0.0, 0.0, 0.0]]))
    report = sparsifier.update()
    assert report["tensors"]["weight"]["pruned"] == 2
    assert sparsifier.masks()["weight"][0].tolist() == [True, True, False, False]  # 2 > 1.25, though -2 < 1


def test_even_gates_in_blocks(trainer):
    sparsifier = engine(
        trainer(width=16, vocabulary=16).model, block=(8, 1), gate_scope="even", prune_rate=0.8
    )
    before = sparsifier.masks()["rnn.weight_hh_l0"].clone()
    sparsifier.end_epoch()
    grown = sparsifier.masks()["rnn.weight_hh_l0"] & ~before
    numbers = [int(rows.sum()) // 8 for rows in grown.split(16)]
    assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": (4, 4), "prune": "set"}, "looks at signs"),
        ({"block": (4, 0)}, "block is .4, 0.; it must be auto or a list of 2"),
        ({"block": "every"}, "block is 'every'; it must be auto or a list of 2"),
        (
            {"block": (16, 1), "block_fallback": True, "redistribute": "magnitude"},
            "redistribute=magnitude shares",
        ),
        (
            {"block": (16, 1), "block_fallback": True, "init": "erdos_renyi"},
            "init=erdos_renyi shares one budget",
        ),
        ({"include": ["nothing"]}, "'nothing' matches no weight; the weights are embedding.weight"),
        ({"exclude": ["*"]}, "no tensor is left"),
        ({"density": 0}, "density is 0; it must be a finite number in"),
        ({"density": 33}, "density is 33"),
        ({"densities": {"*": 2}}, r"densities is \{.\*.: 2\}; it must be a mapping"),
        ({"prune_rate": 1.5}, "prune_rate is 1.5"),
        ({"prune_rate": "fast"}, "prune_rate is 'fast'"),
        ({"gate_scope": "gates"}, "it must be one of pooled, even, independent, cell"),
        (
            {"grow": "gradients"},
            "grow is 'gradients'; it must be one of random, gradient.* Did you mean 'gradient'",
        ),
        ({"update": {"unit": "day"}}, "update.unit is 'day'; it must be epoch or step"),
        ({"update": {"every": -1}}, "update.every is -1"),
        ({"update": {"start": 0.5, "stop": 0.2}}, "start is 0.5"),
        ({"update": 100}, "update is 100; it must be a mapping"),
        ({"updates": {}}, "no setting 'updates'.*Did you mean 'update'"),
        ({"include": "rnn"}, "must be a list"),
        ({"sparsity": 0.5}, "both of density and sparsity"),
        ({"momentum_beta": 2}, "momentum_beta is 2"),
    ],
)
def test_what_is_refused(settings, message, trainer):
    with pytest.raises(InputError, match=message):
        engine(trainer().model, **settings)


@pytest.mark.parametrize("settings", [{"block": (16, 1), "block_fallback": True}, {"block": "auto"}])
def test_a_tensor_without_a_whole_block_may_fall_back(settings, trainer):
    sparsifier = engine(trainer().model, **settings)
    units = {t.name: t.block for t in sparsifier.tensors}
    assert units["embedding.weight"] == (1, 1)
    assert units["rnn.weight_hh_l0"] == (16, 1)


def test_sparsity_is_one_minus_density():
    assert parse({"sparsity": 0.67}).tensors.density == pytest.approx(0.33)
    summary = engine(nn.Linear(10, 10), 0.2).summary()
    assert summary["masked_density"] == pytest.approx(0.2)
    assert summary["masked_sparsity"] == pytest.approx(0.8)
    assert summary["model_density"] == pytest.approx(30 / 110)
    for bad in (1, -0.1, "much"):
        with pytest.raises(InputError, match="sparsity is"):
            parse({"sparsity": bad})
    with pytest.raises(InputError, match="neither of density and sparsity"):
        parse({})


def test_every_setting_can_be_given():
    assert {"density", "sparsity", "block", "faithful", "update", "gate_scope"} <= set(accepted())


def test_whole_numbers_of_gates_in_the_summary(trainer):
    for cell, gates in ((nn.LSTM, 4), (nn.GRU, 3)):
        tensors = engine(trainer(cell=cell).model).summary()["tensors"]
        entry = tensors["rnn.weight_hh_l1"]
        assert len(entry["gates"]) == gates
        assert sum(d * entry["numel"] / gates for d in entry["gates"].values()) == pytest.approx(
            entry["active"]
        )
        assert tensors["head.weight"]["gates"] == {}


def test_convolutions_are_matrices_too():
    model = nn.Conv2d(4, 8, 3)
    sparsifier = engine(model, 0.5, init="erdos_renyi", grow="gradient")
    model(torch.ones(1, 4, 5, 5)).sum().backward()
    sparsifier.after_step()
    sparsifier.end_epoch()
    assert sparsifier.summary()["masked_active"] == 144


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_other_number_types(kind):
    model = nn.Linear(32, 32).to(kind)
    sparsifier = engine(model, 0.5)
    with torch.no_grad():
        model.weight.add_(0.1)
    sparsifier.after_step()
    sparsifier.end_epoch()
    assert int((model.weight != 0).sum()) == 512 - 256
    assert sparsifier.summary()["masked_active"] == 512


def test_models_of_which_nothing_can_be_masked_say_why():
    with pytest.raises(InputError, match="'weight' has no shape yet; call the model once"):
        sparsify(nn.LazyLinear(4), density=0.5)
    with pytest.raises(InputError, match=r"'weight' and its like are frozen \(requires_grad=False\)"):
        sparsify(nn.Linear(4, 4).requires_grad_(False), density=0.5)
    with pytest.raises(InputError, match="check include and exclude"):
        sparsify(nn.Linear(4, 4), density=0.5, exclude=["weight"])
