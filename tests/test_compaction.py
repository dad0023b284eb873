"""Runs without their dead units: the same scores, really smaller files, and training goes on."""

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.nn import BlockLSTM, Layer
from sparsernn.report import load_run, write_report
from sparsernn.runs.artifacts import generate, take_best
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.runs.compaction import Settings, compact_run
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import BEST, LAST, weights

DEAD = torch.tensor([1, 4])
PLAIN = {"sparsity": {"name": "dense"}, "optimizer": {"name": "nt_asgd", "lr": 5.0, "switch_epoch": 0}}
QUICK = Settings(repeats=0)


def bury(model, units=DEAD):
    """Everything that the units own, biases included, is 0."""
    for group in model.units():
        group.zero(units)


def finished(recipe, folder, units=DEAD):
    """A run that has ended, with dead units in its best weights."""
    run = create(recipe, folder)
    train(run)
    take_best(run)
    bury(run.model, units)
    tree = load_checkpoint(folder / BEST) | {"model": weights(run.model)}
    save_checkpoint(folder / BEST, tree)
    return folder


class Stop(Reporter):
    """Stops a run after a number of steps."""

    def __init__(self, steps):
        self.steps = steps

    def step(self, status):
        if status["step"] == self.steps:
            raise KeyboardInterrupt


def stopped(recipe, folder, steps):
    """A run that was stopped in the middle of its second epoch; its units were dead from the start."""
    run = create(recipe, folder)
    bury(run.model)
    with pytest.raises(KeyboardInterrupt):
        train(run, Stop(steps))
    return folder


def test_a_finished_run_scores_writes_reports_and_is_finetuned_as_before(tiny_recipe, tmp_path):
    source = finished(tiny_recipe(**PLAIN, epochs=1), tmp_path / "source")
    original = open_run(source)
    take_best(original)
    run, record = compact_run(source, tmp_path / "small", QUICK)
    assert record["layers"] == [
        {"name": "layer 0", "before": 12, "after": 10},
        {"name": "layer 1", "before": 10, "after": 8},
    ]
    assert record["difference"] < 1e-12
    assert (record["batches"], record["weak"]) == (4, 0)
    assert record["parameters"][1] == sum(p.numel() for p in run.model.parameters()) < record["parameters"][0]
    assert all(new < old for old, new in record["bytes"].values())
    again = open_run(run.home)
    take_best(again)
    for split in ("valid", "test"):
        before, after = (r.task.evaluate(r.model, split) for r in (original, again))
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-6)
    assert generate(again, "the", 12) == generate(original, "the", 12)
    assert again.recipe.model["hidden_sizes"] == [10, 8]
    page = write_report([run.home], run.home)[0].read_text(encoding="utf-8")
    assert "units of layer 0" in page
    assert "layer 1: 8 of 10" in page
    tuned = start(run.home, tmp_path / "tuned", ["epochs=1", "optimizer.lr=1"])
    train(tuned)
    assert tuned.model.layers[0].hidden_size == 10


def test_training_goes_on_as_it_would_have(tiny_recipe, tmp_path):
    """Dead units whose biases are 0 get no gradient: both runs do the same steps, averages and all."""
    settings = {**PLAIN, "epochs": 2, "clip": None, "log_every": 1, "threads": 1}
    recipe = tiny_recipe(
        **settings, model={"name": "language_model", "embedding_size": 8, "hidden_sizes": [12, 10]}
    )
    first = open_run(stopped(recipe, tmp_path / "whole", 40))
    run, _ = compact_run(first.home, tmp_path / "small", QUICK)
    assert run.model.layers[1].hidden_size == 8
    opened = open_run(run.home)
    assert opened.position.step == first.position.step
    shapes = {p.shape for p in opened.model.parameters()}
    assert {state["sum"].shape for state in opened.optimizer.state.values()} == shapes
    train(first)
    train(opened)
    losses = [[e["loss"] for e in load_run(r.home).of("step")] for r in (first, opened)]
    assert len(losses[0]) == len(losses[1]) > 40
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    tests = [load_run(r.home).last("test")["loss"] for r in (first, opened)]
    assert tests[1] == pytest.approx(tests[0], rel=1e-4)
    assert load_run(opened.home).of("compact")


def test_units_that_training_still_uses_stay(tiny_recipe, tmp_path):
    """The best weights do not need unit 1 and 4; the last ones of a run that goes on do."""
    recipe = tiny_recipe(**{**PLAIN, "optimizer": {"name": "sgd", "lr": 1.0}}, epochs=2)
    run = create(recipe, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(run, Stop(run.task.steps_per_epoch() + 2))
    opened = open_run(run.home)
    take_best(opened)
    bury(opened.model)
    tree = load_checkpoint(run.home / BEST) | {"model": weights(opened.model)}
    save_checkpoint(run.home / BEST, tree)
    with pytest.raises(InputError, match="no unit can be removed"):
        compact_run(run.home, tmp_path / "small", QUICK)
    assert not (tmp_path / "small").exists()


LAYERS = {
    "tied rhn": {
        "embedding_size": 12,
        "hidden_sizes": [12],
        "tied": True,
        "layer": {"name": "rhn", "depth": 2},
    },
    "onlstm": {"embedding_size": 6, "hidden_sizes": [12, 12], "layer": {"name": "onlstm", "chunk_size": 4}},
    "gru": {"embedding_size": 6, "hidden_sizes": [9], "layer": "gru"},
}


@pytest.mark.parametrize("kind", LAYERS)
def test_other_layers_are_written_and_opened_with_their_new_sizes(kind, tiny_recipe, tmp_path):
    recipe = tiny_recipe(**PLAIN, epochs=1, model={"name": "language_model", **LAYERS[kind]})
    units = (
        torch.tensor([1, 4, 8, 9]) if kind == "onlstm" else DEAD
    )  # one of each chunk, and a second of the last
    source = finished(recipe, tmp_path / "source", units)
    run, record = compact_run(source, tmp_path / "small", QUICK)
    assert record["difference"] < 1e-12
    again = open_run(run.home)
    take_best(again)
    scores = [load_run(run.home).last("test")["loss"], again.task.evaluate(again.model, "test")["loss"]]
    if kind == "tied rhn":
        assert (again.recipe.model["embedding_size"], again.recipe.model["hidden_sizes"]) == (10, [10])
    if kind == "onlstm":
        assert [layer["after"] for layer in record["layers"]] == [9, 9]
        assert again.recipe.model["layer"] == {"name": "onlstm", "chunk_size": 3}
    assert all(torch.isfinite(torch.tensor(scores)))


def test_a_task_over_vectors_is_made_smaller_too(tiny_recipe, tmp_path):
    task = {
        "name": "copying",
        "delay": 3,
        "length": 2,
        "iterations": 10,
        "batch_size": 4,
        "eval_sequences": 20,
    }
    recipe = tiny_recipe(
        **{**PLAIN, "optimizer": {"name": "adam", "lr": 0.01}},
        epochs=1,
        task=task,
        model={"name": "sequence_model", "hidden_sizes": [9], "layer": "lstm"},
    )
    run, record = compact_run(finished(recipe, tmp_path / "source"), tmp_path / "small", QUICK)
    assert record["layers"] == [{"name": "layer 0", "before": 9, "after": 7}]
    assert record["macs_per_token"][0] > record["macs_per_token"][1]
    assert open_run(run.home).model.layers[0].hidden_size == 7


def test_a_geometry_that_no_recipe_gives_is_refused_before_anything_is_written(
    tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(BlockLSTM, "resized", Layer.resized)  # as if it could not say its components
    layer = {"name": "block_lstm", "blocks": 2, "density": 0.75}
    model = {"name": "language_model", "embedding_size": 8, "hidden_sizes": [12], "layer": layer}
    source = finished(tiny_recipe(**PLAIN, epochs=1, model=model), tmp_path / "source")
    with pytest.raises(InputError, match="which no setting of the recipe gives"):
        compact_run(source, tmp_path / "small", QUICK)
    assert not (tmp_path / "small").exists()


def same(a, b):
    """Whether two trees of a checkpoint are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_a_masked_run_without_dead_units_is_packed_to_the_bit(tiny_recipe, tmp_path):
    model = {"name": "language_model", "embedding_size": 40, "hidden_sizes": [40]}
    sparsity = {"name": "selfish", "density": 0.2}
    run = create(tiny_recipe(epochs=1, model=model, sparsity=sparsity), tmp_path / "source")
    train(run)
    small, record = compact_run(run.home, tmp_path / "small", QUICK)
    assert all(layer["before"] == layer["after"] for layer in record["layers"])
    old, new = (load_checkpoint(home / BEST) for home in (run.home, small.home))
    assert all(same(old[key], new[key]) for key in ("model", "sparsifier", "valid"))
    last = [load_checkpoint(home / LAST) for home in (run.home, small.home)]
    assert all(same(last[0][key], last[1][key]) for key in ("optimizer", "sparsifier"))
    before, after = record["bytes"][BEST]
    assert after < 0.35 * before  # a fifth of the weights, one bit for each position, and what is not masked
    assert record["difference"] == 0
    take_best(small)
    take_best(run)
    assert small.task.evaluate(small.model, "test") == run.task.evaluate(run.model, "test")


def test_a_tolerance_removes_weak_units_and_says_what_it_changed(tiny_recipe, tmp_path):
    source = finished(tiny_recipe(**PLAIN, epochs=1), tmp_path / "source")
    run = open_run(source)
    take_best(run)
    largest = float(run.model.units()[0].norms().max())
    _, record = compact_run(source, tmp_path / "small", Settings(tol=0.99 * largest, repeats=0))
    assert record["weak"] > 0
    assert record["difference"] > 1e-6
    assert record["layers"][0]["after"] < 10


def test_the_command_shows_the_proof_and_stops_where_nothing_can_go(tiny_recipe, tmp_path):
    source = finished(tiny_recipe(**PLAIN, epochs=1), tmp_path / "source")
    command = ["compact", str(source), "--out", str(tmp_path / "small"), "--repeats", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "units of layer 0 12 10" in text
    assert "largest difference between the outputs of both models in float64" in text
    assert [row["batch"] for row in load_run(tmp_path / "small").last("compact")["latency"]] == [1, 1, 10, 10]
    again = CliRunner().invoke(app, ["compact", str(tmp_path / "small"), "--out", str(tmp_path / "none")])
    assert again.exit_code == 2
    assert "no unit can be removed" in again.output
    assert not (tmp_path / "none").exists()
    twice = CliRunner().invoke(app, command)
    assert twice.exit_code == 2
    assert "already holds a run" in twice.output
