"""`sparsernn prune`: a new run with the pruned weights, what it prints, and that finetuning keeps the masks."""

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.report import load_run
from sparsernn.runs import finetuning
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.runs.pruned_folder import prune_run
from sparsernn.runs.run import weights
from sparsernn.sparsity import PruneSettings


@pytest.fixture
def source(tiny_recipe, tmp_path):
    """A finished dense run."""
    run = create(
        tiny_recipe(sparsity="dense", optimizer={"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1}),
        tmp_path / "source",
    )
    train(run)
    return run.home


def loss(run, split="valid"):
    return run.task.evaluate(run.model, split)["loss"]


@pytest.mark.parametrize("method", ["obs", "activation", "magnitude"])
def test_the_new_run_has_the_pruned_weights_as_its_best(method, source, tmp_path):
    run, record = prune_run(source, tmp_path / "pruned", PruneSettings(0.3, method))
    original = open_run(source)
    take_best(original)
    before, after = (scores["loss"] for scores in record["scores"])
    assert before == pytest.approx(loss(original), rel=1e-6)
    again = open_run(run.home)
    assert evaluate_run(again, "valid")["loss"] == pytest.approx(after, rel=1e-6)
    assert again.position.best == pytest.approx(after, rel=1e-6)
    assert record["density"] == pytest.approx(0.3, abs=0.01)
    assert again.recipe.sparsity == {"name": "static", "density": 0.3}
    for name, mask in again.sparsifier.masks().items():
        assert not again.model.get_parameter(name)[~mask].any()
        assert 0 < int(mask.sum()) < mask.numel()
    fell = [row["name"] for row in record["tensors"] if row["why"]]
    assert fell == ([] if method == "magnitude" else ["embedding.weight"])
    assert all(
        torch.equal(t, weights(open_run(source).model)[n]) for n, t in weights(open_run(source).model).items()
    )


def test_the_surgeon_loses_least(source, tmp_path):
    after = {
        method: prune_run(source, tmp_path / method, PruneSettings(0.3, method, exclude=("embedding*",)))[1][
            "scores"
        ][1]["loss"]
        for method in ("obs", "magnitude")
    }
    assert after["obs"] < after["magnitude"]


def test_finetuning_keeps_the_masks_and_so_does_training_on(source, tmp_path):
    run, record = prune_run(
        source, tmp_path / "pruned", PruneSettings(0.25, block=(2, 1), block_fallback=True)
    )
    masks = {name: mask.clone() for name, mask in run.sparsifier.masks().items()}
    tuned = finetuning.start(run.home, tmp_path / "tuned", ["optimizer.lr=1", "epochs=1"])
    assert tuned.position.best == pytest.approx(record["scores"][1]["loss"], rel=1e-6)
    train(tuned)
    train(open_run(run.home))
    for done in (open_run(tuned.home), open_run(run.home)):
        take_best(done)
        for name, mask in done.sparsifier.masks().items():
            assert torch.equal(mask, masks[name])
            assert not done.model.get_parameter(name)[~mask].any()
    kinds = [event["event"] for event in load_run(run.home).events if event["event"] != "step"]
    assert kinds[:3] == ["before", "prune", "start"]


def test_a_sparse_run_can_be_pruned_further(tiny_recipe, tmp_path):
    train(create(tiny_recipe(epochs=1), tmp_path / "source"))
    run, record = prune_run(tmp_path / "source", tmp_path / "less", PruneSettings(0.2))
    assert record["density"] == pytest.approx(0.2, abs=0.01)
    assert run.recipe.name == "tiny-pruned"
    with pytest.raises(InputError, match="are left already"):
        prune_run(tmp_path / "source", tmp_path / "more", PruneSettings(0.5))
    assert not (tmp_path / "more").exists()


def test_the_command_prints_before_after_seconds_and_what_comes_next(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    result = invoke("prune", source, "--density", "0.25", "--block", "7")
    assert result.exit_code == 2
    assert "block is '7'; it must be auto or ROWSxCOLUMNS" in result.stderr
    result = invoke(
        "prune", source, "--density", "0.25", "--block", "2x1", "--block-fallback", "--batches", "4"
    )
    assert result.exit_code == 0, result.output
    scores = load_run(tmp_path / "runs" / "source-pruned").last("prune")["scores"]
    for one in scores:
        assert f"{one['perplexity']:.2f} ppl" in result.output
    assert "seconds of work, 4 training batches read" in result.output
    assert "By magnitude, because its rows are looked up: embedding.weight." in result.output
    assert "sparsernn finetune runs/source-pruned" in result.output
    for command in ("report", "pack", "inspect"):
        done = invoke(command, "runs/source-pruned")
        assert done.exit_code == 0, done.output
    result = invoke("finetune", "runs/source-pruned", "optimizer.lr=1", "epochs=1")
    assert result.exit_code == 0, result.output


def test_what_the_command_refuses(source, tmp_path):
    def fault(*words):
        result = CliRunner().invoke(
            app, ["prune", *(str(word) for word in words), "--out", str(tmp_path / "new")]
        )
        assert result.exit_code == 2, result.output
        return result.stderr

    assert "density is 0.0" in fault(source, "--density", "0")
    assert "method is 'wanda'" in fault(source, "--density", ".5", "--method", "wanda")
    assert "block is '16'" in fault(source, "--density", ".5", "--block", "16")
    assert "batches is 0" in fault(source, "--density", ".5", "--batches", "0")
    assert "is no run" in fault(tmp_path / "nowhere", "--density", ".5")
    assert "is a file" in fault(source / "best.safetensors", "--density", ".5")
    assert not (tmp_path / "new").exists()
