"""A task without corpus, vocabulary and state goes through everything that language modelling goes through."""

import json

import pytest
import torch
from test_resume import StopAt, assert_resumes, assert_same_run
from toy import register

from sparsernn.core.errors import InputError
from sparsernn.report import compare, write_report
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.runs.plan import plan
from sparsernn.runs.recipe import Recipe


@pytest.fixture
def parity(monkeypatch):
    """A function settings -> Recipe of the toy task."""
    register(monkeypatch)

    def build(**changes):
        settings = {
            "name": "parity",
            "seed": 3,
            "epochs": 4,
            "clip": {"value": 1},
            "log_every": 2,
            "checkpoint_seconds": 0,
            "threads": 1,
            "task": {"name": "parity"},
            "model": {"name": "network"},
            "optimizer": {"name": "adam", "lr": 0.03},
            "sparsity": {"name": "selfish", "density": 0.7, "prune_rate": 0.3},
        }
        return Recipe.from_settings({**settings, **changes})

    return build


def records(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == kind]


@pytest.mark.parametrize("stop", [StopAt(step=3), StopAt(step=9), StopAt(evaluation=2)])
def test_it_resumes_to_the_bit(parity, tmp_path, stop):
    assert_resumes(parity(checkpoint_seconds=1000), tmp_path, stop)


def test_its_run_folder_has_no_vocabulary_and_knows_its_data(parity, tmp_path):
    create(parity(), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.txt"))
    data = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]
    assert (data["made"], data["vocabularies"]) == ("on the spot", [])
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    assert open_run(tmp_path / "run").task.vocabularies == {}
    text = recipe.replace("task: {name: parity}", "task: {name: parity, bits: 6}")
    assert text != recipe
    (tmp_path / "run" / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match="the train data are not those"):
        open_run(tmp_path / "run")


def test_the_plan_counts_its_examples_and_leaves_buffers_alone(parity):
    run = assemble(parity())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    made = plan(run)
    assert made["examples"] == {"train": 32, "valid": 32, "test": 32}
    assert (made["counts"], made["metric"], made["vocabularies"]) == ("strings", "accuracy", {})
    assert made["steps_per_epoch"] == 6
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_the_mean_of_an_epoch_weighs_batches_by_their_size(parity, tmp_path, monkeypatch):
    run = create(parity(epochs=1, log_every=1), tmp_path / "run")
    train(run)
    losses = [record["loss"] for record in records(tmp_path / "run", "step")]
    sizes = [6] * 5 + [2]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 32
    assert records(tmp_path / "run", "epoch")[0]["train_loss"] == pytest.approx(mean, rel=1e-12)


def test_the_criterion_chooses_the_best_checkpoint(parity, tmp_path, monkeypatch):
    """The loss only falls, the accuracy is best in the second epoch: that one is kept."""
    run = create(parity(), tmp_path / "run")
    told = iter([(0.5, 0.9), (0.8, 0.8), (0.6, 0.7), (0.7, 0.6)])
    honest = run.task.evaluate

    def evaluate(model, split, batch_size=None, tick=lambda fraction: None):
        if split == "test":
            return honest(model, split, batch_size, tick)
        accuracy, loss = next(told)
        return {"loss": loss, "accuracy": accuracy}

    monkeypatch.setattr(run.task, "evaluate", evaluate)
    train(run)
    assert [record["best"] for record in records(tmp_path / "run", "epoch")] == [True, True, False, False]
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")["valid"]["accuracy"] == 0.8
    assert run.position.best == pytest.approx(0.2)


def test_a_solved_task_ends_its_training_and_stays_ended(parity, tmp_path):
    recipe = parity(epochs=50, task={"name": "parity", "bits": 2, "good_enough": 1.0})
    train(create(recipe, tmp_path / "run"))
    (end,) = records(tmp_path / "run", "end")
    epochs = records(tmp_path / "run", "epoch")
    assert end["why"] == "the task is solved"
    assert end["epoch"] == len(epochs) < 50
    assert [record["valid"]["accuracy"] == 1 for record in epochs] == [False] * (len(epochs) - 1) + [True]
    again = open_run(tmp_path / "run")
    assert again.position.solved
    train(again)
    assert len(records(tmp_path / "run", "epoch")) == len(epochs)


def test_a_run_killed_before_its_test_does_not_go_on_once_solved(parity, tmp_path):
    recipe = parity(epochs=50, task={"name": "parity", "bits": 2, "good_enough": 1.0})
    whole = create(recipe, tmp_path / "whole")
    train(whole)
    run = create(recipe, tmp_path / "cut")
    honest = run.task.evaluate

    def evaluate(model, split, batch_size=None, tick=lambda fraction: None):
        if split == "test":
            raise KeyboardInterrupt
        return honest(model, split, batch_size, tick)

    run.task.evaluate = evaluate
    with pytest.raises(KeyboardInterrupt):
        train(run)
    train(open_run(tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_it_is_reported_and_compared_by_its_own_metric(parity, tmp_path):
    for name in ("a", "b"):
        train(create(parity(name=name), tmp_path / name))
    table = compare([tmp_path / "a", tmp_path / "b"])
    accuracy = records(tmp_path / "a", "test")[0]["accuracy"]
    assert table.rows[0][table.columns.index("test accuracy")] == f"{100 * accuracy:.2f} %"
    html, markdown = write_report([tmp_path / "a"], tmp_path / "a")
    assert "Validation accuracy, %" in html.read_text()
    assert "higher is better" in html.read_text()
    assert "perplexity" not in markdown.read_text()
    assert "token" not in markdown.read_text()
    pair, _ = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert "Validation accuracy, %" in pair.read_text()


def test_its_best_weights_are_evaluated_on_any_split(parity, tmp_path):
    scores = train(create(parity(), tmp_path / "run"))
    again = evaluate_run(open_run(tmp_path / "run"), "test")
    assert {name: again[name] for name in scores} == scores
    assert again["batch_size"] is None
    with pytest.raises(InputError, match="the split 'dev' is unknown; known: test, train, valid"):
        evaluate_run(open_run(tmp_path / "run"), "dev")


def test_a_corpus_for_a_task_that_takes_none_is_refused(parity):
    with pytest.raises(InputError, match="task 'parity' has no setting 'corpus'; it accepts: bits"):
        assemble(parity(task={"name": "parity", "corpus": {"name": "ptb"}}))


def test_the_plan_says_which_rows_the_gates_have_and_how_dense_they_start(tiny_recipe):
    model = {"name": "language_model", "embedding_size": 8, "hidden_sizes": [12]}
    run = assemble(tiny_recipe(model={**model, "layer": {"name": "onlstm", "chunk_size": 4}}))
    row = next(row for row in plan(run, measure=False)["tensors"] if row["name"].endswith("weight_hh"))
    assert list(row["gate_rows"]) == list(row["gate_density"]) == row["gates"]
    assert list(row["gate_rows"].values()) == [[0, 3], [3, 6], [6, 18], [18, 30], [30, 42], [42, 54]]
    mask = run.sparsifier.masks()[row["name"]]
    assert row["gate_density"]["master_in"] == pytest.approx(mask[:3].double().mean().item())
    held = sum(row["gate_density"][gate] * (b - a) * 12 for gate, (a, b) in row["gate_rows"].items())
    assert held == pytest.approx(row["active"])
