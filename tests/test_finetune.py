"""Finetuning: it starts from the best weights, has to beat them, and can be done again."""

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.report import load_run
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import weights


@pytest.fixture
def source(tiny_recipe, tmp_path):
    """A finished sparse run."""
    run = create(tiny_recipe(), tmp_path / "source")
    train(run)
    return run.home


def valid_loss(run):
    return run.task.evaluate(run.model, "valid")["loss"]


def test_it_starts_from_the_best_weights_and_masks_which_are_its_first_best(source, tmp_path):
    original = open_run(source)
    best = take_best(original)
    run = start(source, tmp_path / "tuned", ["optimizer.lr=1"])
    assert all(
        torch.equal(tensor, weights(original.model)[name]) for name, tensor in weights(run.model).items()
    )
    masks = run.sparsifier.masks()
    assert masks
    assert all(torch.equal(mask, best["sparsifier"]["masks"][name]) for name, mask in masks.items())
    assert run.position.best == valid_loss(original) == pytest.approx(best["valid"]["loss"], rel=1e-6)
    first = load_checkpoint(run.home / "best.safetensors")
    assert first["valid"]["loss"] == run.position.best
    assert first["averaged"] == best["averaged"]
    assert evaluate_run(open_run(run.home))["epoch"] == 0


def test_where_no_epoch_is_better_the_weights_it_started_from_stay_the_best(source, tmp_path):
    run = start(source, tmp_path / "spoiled", ["optimizer.lr=100", "clip=null", "epochs=1"])
    before, to_beat = {name: tensor.clone() for name, tensor in weights(run.model).items()}, run.position.best
    tested = train(run)
    assert run.position.best == to_beat
    run.load_best()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run.model).items())
    assert tested == run.task.evaluate(run.model, "test")


def test_where_an_epoch_is_better_it_is_the_best(source, tmp_path):
    run = start(source, tmp_path / "tuned", ["optimizer.lr=1", "epochs=2"])
    to_beat = run.position.best
    train(run)
    assert run.position.best < to_beat
    assert evaluate_run(run, "valid")["loss"] == run.position.best
    assert evaluate_run(run)["epoch"] >= 1


def test_a_stopped_one_still_has_the_weights_to_beat(source, tmp_path):
    """The threshold is part of the state: taken up again before its first epoch it is still there."""
    run = start(source, tmp_path / "tuned")
    assert open_run(run.home).position.best == run.position.best


def test_its_first_record_is_the_score_to_beat_and_stays_when_it_is_resumed(source, tmp_path):
    """The run is stopped in its second epoch; a new one writes its plan though the log is not empty."""
    run = start(source, tmp_path / "tuned", ["optimizer.lr=1", "epochs=2", "checkpoint_seconds=1000"])
    to_beat = valid_loss(run)
    steps = run.task.steps_per_epoch()

    class Stop(Reporter):
        def step(self, status):
            if status["step"] == steps + 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, Stop())
    train(open_run(run.home))
    record = load_run(run.home)
    kinds = [event["event"] for event in record.events if event["event"] != "step"]
    assert kinds == ["before", "start", "epoch", "resume", "epoch", "test"]
    (first,) = record.of("before")
    assert (first["epoch"], first["valid"]["loss"], first["best"]) == (0, to_beat, True)


def test_a_finetuned_run_can_be_finetuned(source, tmp_path):
    once = start(source, tmp_path / "once", ["optimizer.lr=1", "epochs=1"])
    train(once)
    best = take_best(once)
    twice = start(once.home, tmp_path / "twice")
    assert (once.recipe.name, twice.recipe.name) == ("tiny-finetuned", "tiny-finetuned2")
    assert all(
        torch.equal(tensor, weights(once.model)[name]) for name, tensor in weights(twice.model).items()
    )
    masks = twice.sparsifier.masks()
    assert all(torch.equal(mask, best["sparsifier"]["masks"][name]) for name, mask in masks.items())
    assert twice.position.best == pytest.approx(best["valid"]["loss"], rel=1e-6)
    assert twice.recipe.optimizer["switch_epoch"] == 0
    train(twice)
    assert twice.position.best <= best["valid"]["loss"] * (1 + 1e-6)
    for name, mask in masks.items():
        assert bool((dict(twice.model.named_parameters())[name][~mask] == 0).all())


def test_a_dense_run_has_no_masks_to_keep(tiny_recipe, tmp_path):
    train(create(tiny_recipe(sparsity={"name": "dense"}, epochs=1), tmp_path / "source"))
    run = start(tmp_path / "source", tmp_path / "tuned", ["optimizer.lr=1"])
    assert run.recipe.sparsity == {"name": "dense"}


def test_an_optimizer_without_averages_is_answered_or_replaced(tiny_recipe, tmp_path):
    adam = {"name": "adam", "lr": 0.01, "betas": [0.0, 0.999]}
    train(create(tiny_recipe(optimizer=adam, epochs=1), tmp_path / "source"))
    with pytest.raises(InputError, match="the optimizer 'adam' keeps no averages"):
        start(tmp_path / "source", tmp_path / "tuned")
    run = start(tmp_path / "source", tmp_path / "tuned", ["optimizer=nt_asgd", "optimizer.lr=1"])
    assert run.optimizer.averaging
    assert run.optimizer.stop_when_worse


def test_what_is_asked_for_wins_over_what_finetuning_sets(source, tmp_path):
    run = start(source, tmp_path / "tuned", ["name=mine", "optimizer.switch_epoch=2"])
    assert run.recipe.name == "mine"
    assert not run.optimizer.averaging
    assert run.optimizer.stop_when_worse


def test_other_masks_are_refused_and_nothing_is_written(source, tmp_path):
    with pytest.raises(InputError, match="finetuning keeps the masks"):
        start(source, tmp_path / "tuned", ["sparsity=dense"])
    assert not (tmp_path / "tuned").exists()


def test_the_command_says_what_is_to_be_beaten_and_when_it_did_not_help(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("finetune", source, "optimizer.lr=100", "clip=null", "epochs=1")
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    to_beat = open_run(tmp_path / "runs" / "source-finetuned").position.best
    assert f"To beat: {to_beat:.4f}" in result.output
    assert "did not help" in result.output
    result = CliRunner().invoke(
        app, ["finetune", "runs/source-finetuned", "optimizer.lr=1", "epochs=2", "clip=0.25"]
    )
    assert result.exit_code == 0, result.output
    assert "did not help" not in result.output
    assert (tmp_path / "runs" / "source-finetuned2" / "report.html").is_file()
