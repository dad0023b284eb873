"""Each line of the training loop does its work at its place: a test for every one that a mutation could take away."""

from contextlib import contextmanager

import pytest
import torch
from toy import Parity, register

from sparsernn.runs.assembly import create
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.run import BEST, LAST

STEPS = 6  # of an epoch: 32 strings, 6 at once


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A function of settings -> a new run of the toy task, one epoch unless said otherwise."""
    register(monkeypatch)

    def build(**changes):
        settings = {
            "name": "lines",
            "epochs": 1,
            "checkpoint_seconds": 1000,
            "threads": 1,
            "task": {"name": "parity"},
            "model": {"name": "network"},
            "optimizer": {"name": "sgd", "lr": 0.1},
        }
        return create(Recipe.from_settings({**settings, **changes}), tmp_path / "run")

    return build


def seen_at_step(run, look):
    """What `look()` says whenever the optimizer steps."""
    found, step = [], run.optimizer.step
    run.optimizer.step = lambda: (found.append(look()), step())[1]
    return found


def first_weight(run):
    return next(p for p in run.model.parameters() if p.ndim > 1)


def test_the_models_own_penalty_is_part_of_what_is_minimised(made):
    run = made(optimizer={"name": "sgd", "lr": 1e-9})
    w = first_weight(run)
    run.model.penalty = lambda: 1e4 * w.sum()
    gradients = seen_at_step(run, lambda: w.grad.clone())
    train(run)
    assert all((g - 1e4).abs().max() < 100 for g in gradients)


def test_the_sparsifiers_penalty_is_part_of_what_is_minimised(made):
    run = made(optimizer={"name": "sgd", "lr": 1e-9})
    w = first_weight(run)
    run.sparsifier.penalty = lambda: 1e4 * w.sum()
    gradients = seen_at_step(run, lambda: w.grad.clone())
    train(run)
    assert all((g - 1e4).abs().max() < 100 for g in gradients)  # of one step each: they do not add up


def joint_norm(run):
    return torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm().item()


@pytest.mark.parametrize("clip", [0.01, {"norm": 0.01}])
def test_gradients_are_clipped_after_the_sparsifier_saw_them(made, clip):
    run = made(clip=clip)
    unclipped = []

    def after_backward():
        unclipped.append(joint_norm(run))
        for p in run.model.parameters():
            p.grad *= 1000

    run.sparsifier.after_backward = after_backward
    norms = seen_at_step(run, lambda: joint_norm(run))
    train(run)
    assert min(unclipped) > 0.01
    assert all(0.0099 < norm <= 0.010001 for norm in norms)


def test_single_numbers_are_clipped_where_the_recipe_says_so(made):
    run = made(clip={"value": 0.001})
    largest = seen_at_step(run, lambda: max(p.grad.abs().max().item() for p in run.model.parameters()))
    train(run)
    assert all(value == pytest.approx(0.001) for value in largest)


def test_without_clip_nothing_is_clipped(made):
    run = made()
    norms = seen_at_step(run, lambda: joint_norm(run))
    train(run)
    assert max(norms) > 0.3


def test_a_batch_scales_the_learning_rate_of_its_step(made, monkeypatch):
    batches = Parity.batches

    def scaled(task, seed, epoch, start=0):
        for number, batch in enumerate(batches(task, seed, epoch, start), start):
            yield batch._replace(lr_scale=1 + number / 10)

    monkeypatch.setattr(Parity, "batches", scaled)
    run = made(
        optimizer={"name": "sgd", "lr": {"name": "exponential", "start": 0.1, "factor": 0.9, "every": 1}}
    )
    rates = seen_at_step(run, lambda: run.optimizer.param_groups[0]["lr"])
    train(run)
    assert rates == [pytest.approx(run.schedule(k) * (1 + k / 10)) for k in range(STEPS)]
    assert rates[1] != pytest.approx(run.schedule(1))


def test_validation_and_the_best_checkpoint_are_of_the_averaged_weights(made):
    run = made()
    w = first_weight(run)
    raw, evaluate, seen = [], run.task.evaluate, {}

    @contextmanager
    def averaged():
        raw.append(w.detach().clone())
        w.data.fill_(0.125)
        yield
        w.data.copy_(raw[-1])

    def looking(model, split, *given, **more):
        seen[split] = w.detach().clone()
        return evaluate(model, split, *given, **more)

    run.optimizer.averaged, run.task.evaluate = averaged, looking
    train(run)
    name = next(name for name, p in run.model.named_parameters() if p is w)
    assert (seen["valid"] == 0.125).all()
    assert (seen["test"] == 0.125).all()  # the best weights, read back
    assert (load_checkpoint(run.home / BEST)["model"][name] == 0.125).all()
    assert torch.equal(load_checkpoint(run.home / LAST)["model"][name], raw[-1])


def test_the_sparsifier_finishes_once_and_what_it_does_is_saved(made):
    run = made(epochs=2)
    w = first_weight(run)
    calls = []

    def finalize():
        calls.append((run.position.epoch, run.position.step))
        w.data.fill_(0.5)

    run.sparsifier.finalize = finalize
    train(run)
    assert calls == [(2, 2 * STEPS)]
    name = next(name for name, p in run.model.named_parameters() if p is w)
    assert (load_checkpoint(run.home / LAST)["model"][name] == 0.5).all()


def test_the_order_of_a_step_and_of_an_epochs_end(made):
    """As the loop's own description says it."""
    run = made()
    order = []

    def told(part, name, mark):
        honest = getattr(part, name)
        setattr(part, name, lambda *a, **k: (order.append(mark), honest(*a, **k))[1])

    for part, name, mark in (
        (run.boundary, "begin", "begin"),
        (run.boundary, "enter", "enter"),
        (run.task, "loss", "loss"),
        (run.model, "penalty", "own penalty"),
        (run.sparsifier, "penalty", "penalty"),
        (run.optimizer, "zero_grad", "zero"),
        (run.boundary, "roots", "roots"),
        (run.boundary, "learn", "learn"),
        (run.sparsifier, "after_backward", "after backward"),
        (run.optimizer, "step", "step"),
        (run.sparsifier, "after_step", "after step"),
        (run.optimizer, "averaged", "averaged"),
        (run.task, "evaluate", "evaluate"),
        (run, "save_best", "best"),
        (run.optimizer, "trigger", "trigger"),
        (run.schedule, "observe", "observe"),
        (run.sparsifier, "end_epoch", "end epoch"),
        (run, "save", "save"),
        (run.sparsifier, "finalize", "finalize"),
        (run, "load_best", "load best"),
        (run.task, "records", "records"),
    ):
        told(part, name, mark)
    train(run)
    at = (
        len(order) - 1 - order[::-1].index("begin")
    )  # before it a few batches are tried for the time they take
    step = ["enter", "loss", "own penalty", "penalty", "zero", "roots", "learn", "after backward", "step"]
    step += ["after step"]
    end = ["averaged", "evaluate", "best", "trigger", "observe", "end epoch", "save", "finalize", "save"]
    assert order[at:] == ["begin", *(step * STEPS), *end, "load best", "evaluate", "records"]


def test_a_run_ends_early_where_its_optimizer_is_exhausted(made, monkeypatch):
    run = made(epochs=5)
    monkeypatch.setattr(type(run.optimizer), "exhausted", property(lambda o: run.position.epoch >= 1))
    train(run)
    assert run.position.epoch == 1


@pytest.mark.parametrize(("faithful", "epochs"), [(False, [1, 2, 3]), (True, [1, 3, 4])])
def test_masks_move_after_every_epoch_but_the_ones_that_a_method_leaves_out(faithful, epochs, made):
    """The published code has no update in the epoch in which averaging starts, and one after the last."""
    run = made(
        epochs=4,
        optimizer={"name": "snt_asgd", "lr": 0.1, "switch_epoch": 2},
        sparsity={"name": "selfish", "density": 0.5, "faithful": faithful},
    )
    train(run)
    assert [report["step"] for report in run.sparsifier.reports] == [STEPS * epoch for epoch in epochs]


def test_every_parameter_that_is_trained_is_clipped_and_no_other(made):
    run = made(clip=0.01)
    frozen = list(run.model.parameters())[-1]
    frozen.requires_grad_(False)
    train(run)
    assert frozen.grad is None
