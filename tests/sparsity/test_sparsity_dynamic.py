"""The engine's promises, for every method under every optimizer, after every single step."""

import math

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.sparsity import DEFAULTS, SPARSIFIERS
from sparsernn.sparsity.optimizer_state import buffers

STEPS, EPOCHS = 3, 4


def engine(trainer, name="selfish", density=0.33, seed=1, total_steps=STEPS * EPOCHS, **settings):
    if name == "rigl":  # a run of twenty steps would never see its hundredth
        settings.setdefault("update", {"every": 3, "unit": "step"})
    return make(
        "sparsity",
        SPARSIFIERS,
        {"name": name, "density": density, **settings},
        model=trainer.model,
        optimizer=trainer.optimizer,
        total_steps=total_steps,
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        seed=seed,
    )


def active(sparsifier):
    return {name: int(mask.sum()) for name, mask in sparsifier.masks().items()}


def check(trainer, sparsifier, total):
    """Absent weights and their buffers are 0, and the number of active weights is the one to the weight."""
    assert sum(active(sparsifier).values()) == total
    for name, mask in sparsifier.masks().items():
        parameter = trainer.model.get_parameter(name)
        assert not parameter[~mask].any()
        for buffer in buffers(trainer.optimizer, parameter):
            assert not buffer[~mask].any()


def run(trainer, sparsifier, epochs=EPOCHS, inspect=lambda: None):
    """The order of the library's loop; returns all events."""
    events = []
    for epoch in range(epochs):
        for k in range(STEPS):
            trainer.step(epoch * STEPS + k)
            events += sparsifier.after_step()
            inspect()
        events += sparsifier.end_epoch()
        inspect()
    return events


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_every_method_keeps_its_promises_under_every_optimizer(name, optimizer_name, trainer):
    t = trainer(optimizer_name)
    sparsifier = engine(t, name)
    total, ours = sum(active(sparsifier).values()), optimizer_name.endswith("nt_asgd")

    def inspect():
        if (
            ours
        ):  # averages count iterates at absent positions, which mean nothing; the averages themselves are 0
            assert sum(active(sparsifier).values()) == total
            with t.optimizer.averaged():
                assert all(not t.model.get_parameter(n)[~m].any() for n, m in sparsifier.masks().items())
        else:
            check(t, sparsifier, total)

    events = run(t, sparsifier, inspect=inspect)
    assert bool(events) == (name != "static")
    assert {"event": "rewire"}.items() <= (events or [{"event": "rewire"}])[0].items()


@pytest.mark.parametrize("gate_scope", ["pooled", "even", "independent", "cell"])
@pytest.mark.parametrize("redistribute", ["none", "magnitude", "momentum", "nonzeros", "uniform"])
@pytest.mark.parametrize(
    ("prune", "grow"),
    [
        ("magnitude", "random"),
        ("set", "gradient"),
        ("threshold", "momentum"),
        ("global_magnitude", "momentum_neuron"),
    ],
)
def test_every_combination_of_rules_is_exact(gate_scope, redistribute, prune, grow, trainer):
    t = trainer("momentum")
    faithful = len(gate_scope + redistribute + prune) % 2 == 1  # about every other case
    rules = {"gate_scope": gate_scope, "redistribute": redistribute, "prune": prune, "grow": grow}
    sparsifier = engine(t, "dynamic", density=0.5, faithful=faithful, tau=0.05, **rules)
    before, total = active(sparsifier), sum(active(sparsifier).values())
    events = run(t, sparsifier, epochs=2, inspect=lambda: check(t, sparsifier, total))
    assert any(tensor["pruned"] for event in events for tensor in event["tensors"].values())
    if redistribute == "none" and gate_scope != "cell":
        assert active(sparsifier) == before
    for tensor in (tensor for event in events for tensor in event["tensors"].values()):
        assert faithful or tensor["returned"] == 0 or prune == "global_magnitude"
        assert sum(tensor["gates"].values()) == pytest.approx(tensor["density"] * len(tensor["gates"]))


@pytest.mark.parametrize("density", [0.02, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("name", list(DEFAULTS))
def test_any_density_is_held(name, density, trainer):
    t = trainer("adam")
    sparsifier = engine(t, name, density)
    total = sum(active(sparsifier).values())
    numel = sum(mask.numel() for mask in sparsifier.masks().values())
    assert total == pytest.approx(density * numel, abs=3)
    run(t, sparsifier, epochs=2, inspect=lambda: check(t, sparsifier, total))


@pytest.mark.parametrize("name", list(DEFAULTS))
@pytest.mark.parametrize("faithful", [False, True])
def test_density_one_is_the_dense_run_to_the_bit(name, faithful, trainer):
    same_as_dense(trainer, "adam", name, faithful)


def test_density_one_is_dense_under_every_optimizer(optimizer_name, trainer):
    same_as_dense(trainer, optimizer_name, "selfish", False)


def same_as_dense(trainer, optimizer, name, faithful):
    dense, full = trainer(optimizer), trainer(optimizer)
    run(full, engine(full, name, 1.0, faithful=faithful), epochs=2)
    for step in range(2 * STEPS):
        dense.step(step)
    for a, b in zip(dense.model.parameters(), full.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_masks_whatever_the_global_generator_does(trainer):
    runs = []
    for k in range(2):
        t = trainer("adam")
        torch.manual_seed(99 + k)
        before = torch.get_rng_state()
        sparsifier = engine(t, "selfish")
        run(t, sparsifier, epochs=3)
        assert torch.equal(before, torch.get_rng_state())
        runs.append(sparsifier.masks())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    other = engine(trainer("adam"), "selfish", seed=2).masks()
    assert not all(torch.equal(other[n], m) for n, m in engine(trainer("adam")).masks().items())


def test_tied_weights_have_one_mask(trainer):
    t = trainer("adam", tied=True)
    sparsifier = engine(t)
    assert "embedding.weight" in sparsifier.masks()
    assert "head.weight" not in sparsifier.masks()
    run(t, sparsifier, epochs=2)
    assert not t.model.head.weight[~sparsifier.masks()["embedding.weight"]].any()
    summary = sparsifier.summary()
    assert summary["parameters_total"] == sum(p.numel() for p in t.model.parameters())


def test_masks_are_live_references(trainer):
    t = trainer()
    sparsifier = engine(t, prune_rate=0.9)
    masks, before = sparsifier.masks(), {n: m.clone() for n, m in sparsifier.masks().items()}
    run(t, sparsifier, epochs=1)
    assert all(masks[n] is m for n, m in sparsifier.masks().items())
    assert not any(torch.equal(masks[n], before[n]) for n in masks)


def test_the_report_tells_what_happened(trainer):
    t = trainer()
    sparsifier = engine(t, "dynamic", prune_rate=0.5, regrow_excludes_just_pruned=False)
    ever = {n: m.clone() for n, m in sparsifier.masks().items()}
    for epoch in range(3):
        before = {n: m.clone() for n, m in sparsifier.masks().items()}
        event = run(t, sparsifier, epochs=1)[0]
        assert (event["update"], event["step"]) == (epoch + 1, (epoch + 1) * STEPS)
        for name, mask in sparsifier.masks().items():
            told, ever[name] = event["tensors"][name], ever[name] | mask
            assert told["churn"] == pytest.approx(float((mask ^ before[name]).float().mean()))
            assert told["exploration"] == pytest.approx(float(ever[name].float().mean()))
            assert told["pruned"] == math.ceil(event["prune_rate"] * int(before[name].sum()) - 1e-9)
            assert told["grown"] == told["pruned"]
            assert int((mask & before[name]).sum()) == told["active"] - told["grown"] + told["returned"]
        everything = torch.cat([e.flatten() for e in ever.values()]).float()
        assert event["exploration"] == pytest.approx(float(everything.mean()))
        assert event["density"] == pytest.approx(0.33, abs=0.01)
        assert event["seconds"] >= 0


@pytest.mark.parametrize(
    ("excludes", "start", "expected"),
    [(True, "zero", "all zero"), (False, "zero", "all zero"), (False, "keep", "some kept")],
)
def test_what_a_grown_weight_starts_with(excludes, start, expected, trainer):
    t = trainer("momentum")
    sparsifier = engine(t, prune_rate=0.9, regrow_excludes_just_pruned=excludes, regrow_init=start)
    for k in range(STEPS):
        t.step(k)
        sparsifier.after_step()
    old = {n: (m.clone(), t.model.get_parameter(n).detach().clone()) for n, m in sparsifier.masks().items()}
    told = sparsifier.end_epoch()[0]["tensors"]
    for name, mask in sparsifier.masks().items():
        weight, (was, values) = t.model.get_parameter(name), old[name]
        assert not weight[mask & ~was].any()
        changed = (weight != values) & mask & was  # only pruned and returned weights can have changed
        assert int(changed.sum()) == (told[name]["returned"] if expected == "all zero" else 0)
        assert (told[name]["returned"] > 0) == (not excludes)


def test_small_random_growth_is_small_and_random(trainer):
    t = trainer(width=40)
    sparsifier = engine(t, prune_rate=0.5, regrow_init="small_random")
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    sparsifier.end_epoch()
    for name, mask in sparsifier.masks().items():
        weight = t.model.get_parameter(name)
        old, new = weight[mask & before[name]], weight[mask & ~before[name]]
        assert (new != 0).all()
        assert (new.square().mean().sqrt() / old.square().mean().sqrt()).item() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(("how", "kept"), [("reset", False), ("keep_returned", True)])
def test_optimizer_state_of_returning_weights(how, kept, trainer):
    t = trainer("momentum")
    settings = {"regrow_excludes_just_pruned": False, "regrow_init": "keep", "state_at_growth": how}
    sparsifier = engine(t, prune_rate=0.9, **settings)
    run(t, sparsifier, epochs=1)
    t.step(0)
    sparsifier.after_step()
    old = {
        n: t.optimizer.state[t.model.get_parameter(n)]["momentum_buffer"].clone() for n in sparsifier.masks()
    }
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    told = sparsifier.end_epoch()[0]["tensors"]
    for name, mask in sparsifier.masks().items():
        buffer = t.optimizer.state[t.model.get_parameter(name)]["momentum_buffer"]
        same = mask & before[name]
        lost = int(((buffer == 0) & (old[name] != 0) & same).sum())
        assert not buffer[mask & ~before[name]].any()
        assert (lost == 0) if kept else (0 < lost <= told[name]["returned"])


def test_kept_state_gathers_momentum_where_weights_are_absent(trainer):
    t = trainer("momentum")
    sparsifier = engine(t, "snfs", state_at_growth="keep", update={"every": 0})
    run(t, sparsifier, epochs=1)
    name, mask = next(iter(sparsifier.masks().items()))
    assert t.optimizer.state[t.model.get_parameter(name)]["momentum_buffer"][~mask].any()
    assert not t.model.get_parameter(name)[~mask].any()


def test_gradient_growth_takes_the_largest_dense_gradients(trainer):
    t = trainer()
    sparsifier = engine(t, "rigl", update={"every": 1, "unit": "step", "stop": 1.0})
    t.gradients(0)
    grads = {n: t.model.get_parameter(n).grad.clone() for n in sparsifier.masks()}
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    t.optimizer.step()
    told = sparsifier.after_step()[0]["tensors"]
    for name, mask in sparsifier.masks().items():
        empty, grown = ~before[name], mask & ~before[name]
        top = grads[name][empty].abs().topk(told[name]["grown"]).values
        assert torch.equal(grads[name][grown].abs().sort().values, top.sort().values)


def test_an_update_by_hand_sees_the_gradients_of_the_moment(trainer):
    t = trainer()
    sparsifier = engine(t, "rigl")
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    t.gradients(0)
    sparsifier.update()
    for name, mask in sparsifier.masks().items():
        grad, grown = t.model.get_parameter(name).grad.abs(), mask & ~before[name]
        assert grad[grown].min() >= grad[~mask & ~before[name]].max()


def test_momentum_growth_uses_the_running_mean_of_dense_gradients(trainer):
    t = trainer("sgd")  # has no momentum of its own
    sparsifier = engine(t, "snfs")
    mean = {n: torch.zeros(m.shape) for n, m in sparsifier.masks().items()}
    for k in range(STEPS):
        t.gradients(k)
        for name in mean:
            mean[name] = 0.9 * mean[name] + 0.1 * t.model.get_parameter(name).grad
        t.optimizer.step()
        sparsifier.after_step()
    for name, value in sparsifier.state_dict()["momentum"].items():
        torch.testing.assert_close(value, mean[name])


def test_even_growth_gives_every_gate_the_same_number(trainer):
    t = trainer(width=16)
    t.model.rnn.weight_hh_l0.data[:16] *= 0.01  # gate i has the smallest weights and loses most
    sparsifier = engine(t, gate_scope="even", prune_rate=0.4)
    before = sparsifier.masks()["rnn.weight_hh_l0"].clone()
    sparsifier.end_epoch()
    after = sparsifier.masks()["rnn.weight_hh_l0"]
    grown = [int((after & ~before)[rows].sum()) for rows in torch.arange(64).split(16)]
    pruned = [int((before & ~after)[rows].sum()) for rows in torch.arange(64).split(16)]
    assert max(grown) - min(grown) <= 1
    assert max(pruned) - min(pruned) > 40
    assert sum(grown) == sum(pruned)


def test_independent_gates_keep_their_counts_and_cells_theirs(trainer):
    for scope in ("independent", "cell"):
        t = trainer(width=16)
        t.model.rnn.weight_ih_l0.data *= 0.1
        sparsifier = engine(t, gate_scope=scope, prune_rate=0.4)
        before = sparsifier.summary()["tensors"]
        sparsifier.end_epoch()
        after = sparsifier.summary()["tensors"]
        names = ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
        if scope == "independent":
            assert all(after[n]["gates"] == before[n]["gates"] for n in names)
        else:
            assert after[names[0]]["active"] < before[names[0]]["active"]
            assert sum(after[n]["active"] for n in names) == sum(before[n]["active"] for n in names)


def test_global_magnitude_removes_the_smallest_of_all(trainer):
    t = trainer()
    sparsifier = engine(t, "hyperpruning", prune_rate=0.3)
    old = {n: t.model.get_parameter(n).detach().clone() for n in sparsifier.masks()}
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    sparsifier.end_epoch()
    gone = torch.cat([old[n][before[n] & ~m].abs() for n, m in sparsifier.masks().items()])
    stayed = torch.cat([old[n][before[n] & m].abs() for n, m in sparsifier.masks().items()])
    assert len(gone) == math.ceil(0.3 * sum(int(m.sum()) for m in before.values()))
    assert gone.max() <= stayed.min()


@pytest.mark.parametrize(
    ("settings", "held"),
    [({}, False), ({"faithful": True}, True), ({"update": {"at_switch": False}}, True)],
    ids=str,
)
def test_masks_may_stay_in_the_epoch_in_which_averaging_starts(settings, held, trainer):
    sparsifier = engine(trainer(), **settings)
    before = {n: m.clone() for n, m in sparsifier.masks().items()}
    assert len(sparsifier.end_epoch(averaging_starts=True)) == (0 if held else 1)
    assert all(torch.equal(m, before[n]) for n, m in sparsifier.masks().items()) == held
    assert len(sparsifier.end_epoch()) == 1
    assert sparsifier.epoch_count == 2


def test_the_threshold_adapts(trainer):
    sparsifier = engine(trainer(), "dsr", prune_rate=0.5)
    for _ in range(3):
        sparsifier.end_epoch()
    assert sparsifier.tau == pytest.approx(0.008)  # too low at first: doubled three times


@pytest.mark.parametrize("block", [(1, 1), (16, 1)])
@pytest.mark.parametrize(("below", "factor"), [(0.25, 2.0), (0.75, 0.5)])
def test_the_threshold_counts_what_the_rules_see_with_blocks_too(block, below, factor, trainer):
    name = "rnn.weight_hh_l0"
    sparsifier = engine(trainer(width=16), "dsr", include=[name], block=block, prune_rate=0.5)
    weight = sparsifier.tensors[0]
    magnitudes = weight.values(weight.parameter).abs()[weight.grid_mask()]
    before = sparsifier.tau = magnitudes.quantile(below).item()
    report = sparsifier.update()
    assert report["tensors"][name]["pruned"] == pytest.approx(
        below * magnitudes.numel() * weight.area, abs=weight.area
    )
    assert sparsifier.tau == pytest.approx(factor * before)
