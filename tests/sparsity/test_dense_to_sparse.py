"""Dense at first, sparse in the end: the schedule by hand, what goes, what comes back, and which weights are best."""

import warnings

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.sparsity import PRUNED_ON_THE_WAY, SPARSIFIERS
from sparsernn.sparsity.dynamic.dense_to_sparse import DenseToSparse, sparsity_at, update_times
from sparsernn.sparsity.dynamic.engine_settings import Updates
from sparsernn.sparsity.dynamic.update_times import Length
from sparsernn.sparsity.optimizer_state import buffers
from sparsernn.sparsity.presets import parse_pruned

STEPS = 20
SPREAD = {"update": {"every": 2, "unit": "step"}}


def engine(t, name, density=0.3, **settings):
    spec = {"name": name, "density": density, **settings}
    return make(
        "sparsity", SPARSIFIERS, spec, model=t.model, optimizer=t.optimizer, total_steps=STEPS, epochs=4
    )


def active(sparsifier):
    return {name: int(mask.sum()) for name, mask in sparsifier.masks().items()}


def go(t, sparsifier, first=0, last=STEPS, look=lambda step: None):
    for k in range(first, last):
        t.step(k)
        sparsifier.after_step()
        look(k + 1)


def test_the_cubic_schedule_by_hand():
    """From 0 to 0.9 at halves: 0.9 (1 - 1/8) = 0.7875; from 0.1 to 0.9: 0.9 - 0.8 / 8 = 0.8."""
    assert [sparsity_at(p, 0.9) for p in (0, 0.5, 1)] == pytest.approx([0, 0.7875, 0.9])
    assert [sparsity_at(p, 0.9, 0.1) for p in (0, 0.5, 1)] == pytest.approx([0.1, 0.8, 0.9])


def test_when_and_how_much_by_hand():
    """100 steps, every 10 from 0.2 to 0.5: at 20, 30, 40, 50; a quarter of the way each; of 100 weights 0.8 go."""
    layer = nn.Linear(10, 10)
    layer.weight.data = torch.arange(1.0, 101.0).view(10, 10)
    every = {"every": 10, "unit": "step", "start": 0.2, "stop": 0.5}
    sparse = sparsify(layer, method="gradual", density=0.2, update=every, total_steps=100)
    left = {}
    for step in range(1, 101):
        sparse.step()
        left[step] = int((layer.weight != 0).sum())
    assert [left[k] for k in (19, 20, 29, 30, 40, 50, 100)] == [100, 54, 54, 30, 21, 20, 20]
    assert layer.weight[layer.weight != 0].tolist() == list(range(81, 101))  # the largest are left
    assert [report["step"] for report in sparse.reports] == [20, 30, 40, 50]
    assert sparse.stage == 4


@pytest.mark.parametrize(
    ("updates", "length", "times"),
    [
        (Updates(every=3, unit="step", start=0.25), Length(20), [6, 9, 12, 15, 18]),
        (Updates(every=5, unit="step", stop=0.5), Length(20), [5, 10]),
        (Updates(every=1, stop=0.5), Length(None, 5), [1, 2]),
        (Updates(every=10, unit="step", last=True), Length(20), [10, 20]),
        (Updates(every=0), Length(20, 3), []),
    ],
)
def test_times(updates, length, times):
    assert update_times(updates, length) == times


@pytest.mark.parametrize("name", list(PRUNED_ON_THE_WAY))
def test_every_method_gets_there_under_every_optimizer_and_never_back(name, optimizer_name, trainer):
    t = trainer(optimizer_name)
    sparsifier = engine(t, name, **(SPREAD if name == "gradual" else {}))
    ours, seen = optimizer_name.endswith("nt_asgd"), [sum(active(sparsifier).values())]
    assert sparsifier.summary()["masked_density"] == 1

    def look(step):
        seen.append(sum(active(sparsifier).values()))
        for n, mask in sparsifier.masks().items():
            weight = t.model.get_parameter(n)
            if ours:
                with t.optimizer.averaged():
                    assert not weight[~mask].any()
            else:
                assert not weight[~mask].any()
                assert not any(buffer[~mask].any() for buffer in buffers(t.optimizer, weight))

    go(t, sparsifier, look=look)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == (8 if name == "gradual" else 2)
    assert seen[15] == seen[-1] == pytest.approx(0.3 * seen[0], abs=3)
    assert (seen[9] == seen[0]) == (name != "gradual")  # at once, at half of 20 steps
    assert sparsifier.stage == len(set(seen)) - 1


@pytest.mark.parametrize("name", ["gradual", "one_shot"])
def test_density_one_is_the_dense_run_to_the_bit(name, trainer):
    dense, full = trainer("adam"), trainer("adam")
    go(full, engine(full, name, 1.0))
    for k in range(STEPS):
        dense.step(k)
    assert all(map(torch.equal, dense.model.parameters(), full.model.parameters()))


def test_one_shot_takes_the_smallest_of_each_tensor_once(trainer):
    t = trainer("adam")
    sparsifier = engine(t, "one_shot", update={"stop": 0.25})  # after step 5
    go(t, sparsifier, 0, 4)
    t.step(4)
    before = {name: t.model.get_parameter(name).detach().abs() for name in sparsifier.masks()}
    sparsifier.after_step()
    for name, mask in sparsifier.masks().items():
        assert before[name][mask].min() >= before[name][~mask].max()
    kept = {name: mask.clone() for name, mask in sparsifier.masks().items()}
    go(t, sparsifier, 5, STEPS)
    assert all(torch.equal(kept[name], mask) for name, mask in sparsifier.masks().items())


@pytest.mark.parametrize("begin", [0.0, 0.1])
def test_rewinding_goes_back_to_the_kept_weights_under_the_new_masks(begin, trainer):
    t = trainer("adam")
    kept = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    sparsifier = engine(t, "rewind", update={"start": begin, "stop": 0.5})
    late = {}

    def look(step):
        if step == 2 and begin:
            kept.update({name: p.detach().clone() for name, p in t.model.named_parameters()})
        if step == 9:
            t.step(9)  # the tenth step, looked at before the sparsifier
            late.update({name: p.detach().clone() for name, p in t.model.named_parameters()})
            sparsifier.after_step()

    go(t, sparsifier, 0, 9, look)
    for name, parameter in t.model.named_parameters():
        mask = sparsifier.masks().get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, kept[name] * mask), name
        assert not torch.equal(late[name], kept[name])
        if name in sparsifier.masks():
            assert late[name].abs()[mask].min() >= late[name].abs()[~mask].max()  # by the late weights
        assert not any(buffer.any() for buffer in buffers(t.optimizer, parameter))
    assert sparsifier.reports[0]["rewound"] is True
    assert not sparsifier.state_dict()["kept"]


@pytest.mark.parametrize("scope", ["pooled", "even", "independent", "cell"])
@pytest.mark.parametrize("prune", ["magnitude", "global_magnitude"])
@pytest.mark.parametrize("block", [[1, 1], [4, 1]])
def test_scopes_pools_and_blocks(scope, prune, block, trainer):
    t = trainer("sgd")
    sparsifier = engine(t, "gradual", gate_scope=scope, prune=prune, block=block, **SPREAD)
    total = sum(mask.numel() for mask in sparsifier.masks().values())
    go(t, sparsifier)
    assert sum(active(sparsifier).values()) == pytest.approx(0.3 * total, abs=4 * len(sparsifier.masks()))
    for name, mask in sparsifier.masks().items():
        grid = mask.view(mask.shape[0] // block[0], block[0], -1)
        assert torch.equal(grid.any(1), grid.all(1))
        if prune == "magnitude" and scope != "cell":
            assert int(mask.sum()) == pytest.approx(0.3 * mask.numel(), abs=block[0])
        if scope == "independent" and prune == "magnitude" and "rnn" in name:
            gates = sparsifier.summary()["tensors"][name]["gates"].values()
            assert max(gates) - min(gates) <= block[0] / (mask.numel() / 4) + 1e-9


def test_the_final_counts_may_be_those_of_erdos_and_renyi(trainer):
    t = trainer("sgd")
    wanted = active(engine(trainer("sgd"), "static", init="erdos_renyi"))
    sparsifier = engine(t, "one_shot", init="erdos_renyi")
    go(t, sparsifier)
    assert active(sparsifier) == wanted


@pytest.mark.parametrize("name", list(PRUNED_ON_THE_WAY))
def test_two_lines_in_anybodys_loop(name):
    torch.manual_seed(0)
    model = nn.LSTM(6, 8)
    adam = torch.optim.Adam(model.parameters())
    update = {"update": {"every": 1, "unit": "epoch"}} if name == "gradual" else {}
    sparsifier = sparsify(model, adam, method=name, density=0.25, total_steps=12, steps_per_epoch=3, **update)
    for _ in range(12):
        adam.zero_grad()
        model(torch.randn(4, 2, 6))[0].square().sum().backward()
        adam.step()
    assert sparsifier.step_count == 12
    assert sparsifier.summary()["masked_density"] == pytest.approx(0.25)
    assert sparsifier.times == ([3, 6, 9] if name == "gradual" else [6])


@pytest.mark.parametrize(
    "kept", [{"weight": torch.zeros(1, 4)}, {"other": torch.zeros(4, 4)}, {"weight": 1}, 3]
)
def test_a_state_with_other_kept_weights_is_refused_before_anything_is_taken(kept):
    def made():
        update = {"every": 1, "unit": "step", "start": 0, "stop": 0.5}
        return make(
            "method", SPARSIFIERS, {"name": "rewind", "density": 0.5, "update": update}, model=nn.Linear(4, 4)
        )

    first, second = made(), made()
    for _ in range(3):
        first.after_step()
    with pytest.raises(InputError, match=r"of another sparsifier .*kept"):
        second.load_state_dict({**first.state_dict(), "kept": kept})
    assert second.step_count == 0
    second.load_state_dict(first.state_dict())
    assert second.step_count == 3


def test_a_time_that_never_comes_is_told():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sparsify(nn.Linear(4, 4), method="gradual", density=0.5, total_steps=40)
    assert "nothing will ever be removed: of every 100 steps of a run of 40" in str(told[0].message)


BAD = {
    "has no setting 'grow'": {"grow": "random"},
    "has no setting 'prune_rate'": {"prune_rate": 0.5},
    "prune is 'set'": {"prune": "set"},
    "density is 0": {"density": 0},
    "update has no setting 'at'": {"update": {"at": 0.5}},
    "stop must come later": {"update": {"start": 0.5, "stop": 0.5}},
    "update.at_switch is false": {"update": {"at_switch": False}},
}


@pytest.mark.parametrize("sentence", list(BAD))
def test_what_is_refused(sentence):
    with pytest.raises(InputError, match=sentence):
        sparsify(nn.Linear(4, 4), method="rewind", **{"density": 0.5, **BAD[sentence]})


@pytest.mark.parametrize("name", list(PRUNED_ON_THE_WAY))
def test_the_best_weights_of_a_run_are_as_sparse_as_was_asked_for(name, tiny_recipe, tmp_path):
    """A clip that lets nothing be learnt: the first epoch, dense, has the lowest loss there will be."""
    steps = {"every": 1, "unit": "step", "start": 0.1, "stop": 0.6}
    spec = {"name": name, "density": 0.2, "update": steps}
    run = create(tiny_recipe(sparsity=spec, clip=1e-6, epochs=4), tmp_path / "run")
    train(run)
    again = open_run(run.home)
    take_best(again)
    summary = again.sparsifier.summary()
    assert (summary["masked_density"], summary["stray"]) == (pytest.approx(0.2, abs=0.01), 0)
    assert again.position.stage == again.sparsifier.stage > 0
    tuned = start(run.home, tmp_path / "tuned", ["epochs=1"])
    train(tuned)
    masks = tuned.sparsifier.masks()
    assert all(torch.equal(mask, again.sparsifier.masks()[n]) for n, mask in masks.items())


def test_what_is_to_be_told_after_the_last_pruning_is_in_the_state():
    """A run that stops between the pruning at an epoch's end and the next step still says its products."""

    def made():
        settings = parse_pruned("gradual", {"density": 0.5, "update": {"every": 1, "unit": "epoch"}})
        return DenseToSparse(nn.Linear(8, 8), settings, length=Length(epochs=6), gradual=True)

    sparsifier = made()
    for _ in range(max(sparsifier.times)):
        sparsifier.end_epoch()
    state = sparsifier.state_dict()
    assert state["asked"]
    again = made()
    again.load_state_dict(state)
    assert again.state_dict()["asked"]
    again.load_state_dict({key: value for key, value in state.items() if key != "asked"})
