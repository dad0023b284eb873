"""The commands with a task that has no corpus, no vocabulary and no text: what can be done is done."""

import json

import pytest
import torch
from torch import nn
from toy import Network, register
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.deploy import read_packed
from sparsernn.runs.checkpoint import load_checkpoint

RECIPE = """
task: {name: parity}
model: {name: network}
optimizer: {name: snt_asgd, lr: 0.3, switch_epoch: 1}
sparsity: {name: selfish, density: 0.7, prune_rate: 0.3}
epochs: 3
clip: 0.25
log_every: 2
threads: 1
"""


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")


def events(folder):
    return [json.loads(line)["event"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run and what was printed meanwhile; the task stays known while this file's tests run."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "parity.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        result = invoke("train", folder / "parity.yaml", "--out", folder / "run")
        assert result.exit_code == 0, result.output
        yield folder / "run", result.output


def test_training_ends_with_a_report_and_with_what_can_be_done_next(trained):
    folder, output = trained
    assert (folder / "report.html").is_file()
    offered = [line.split()[1] for line in output.splitlines() if line.startswith("  sparsernn ")]
    assert offered == ["inspect", "evaluate"]
    assert events(folder)[-3:] == ["test", "sizes", "complete"]
    assert "token" not in output
    assert "sample" not in output


def test_the_packed_file_holds_the_best_weights_and_buffers_and_no_vocabulary(trained):
    packed = read_packed(trained[0] / "packed.safetensors")
    best = load_checkpoint(trained[0] / "best.safetensors")["model"]
    assert packed.state.keys() == best.keys()
    assert all(torch.equal(packed.state[name], tensor) for name, tensor in best.items())
    assert (packed.vocabulary, packed.recipe["vocabularies"]) == ("", {})
    Network(5, 2).load_state_dict(packed.state)


def test_a_finished_run_is_complete_and_an_unmeasured_one_is_completed(trained, tmp_path):
    folder = trained[0]
    assert "is complete" in invoke("resume", folder).output
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"complete"' not in line and '"sizes"' not in line))
    result = invoke("resume", folder)
    assert result.exit_code == 0, result.output
    assert events(folder)[-3:] == ["test", "sizes", "complete"]
    assert events(folder).count("test") == 1
    assert "is complete" in invoke("resume", folder).output


def test_it_is_evaluated_inspected_reported_and_compared(trained, tmp_path):
    folder = trained[0]
    assert "accuracy" in invoke("evaluate", folder, "--split", "valid").output
    inspected = invoke("inspect", folder)
    assert inspected.exit_code == 0
    assert "model on disk" in inspected.output
    assert "per token" not in inspected.output
    assert "| parity |" in invoke("compare", folder, folder, "--markdown").output
    assert invoke("report", folder, "--out", tmp_path).exit_code == 0
    assert "token" not in (tmp_path / "report.md").read_text()
    assert invoke("pack", folder, "--out", tmp_path / "small").exit_code == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("generate",), "writing text"),
        (("bench",), "measuring the time per token"),
        (("evaluate", "--pointer"), "neural cache"),
        (("evaluate", "--dynamic"), "dynamic evaluation"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(trained, words, what):
    before = (trained[0] / "metrics.jsonl").read_text()
    result = invoke(words[0], trained[0], *words[1:])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert f"{what} needs a language model" in line
    assert "Network" in line
    assert "Parity" in line
    assert (trained[0] / "metrics.jsonl").read_text() == before


def test_it_is_finetuned_and_the_weights_it_started_from_are_epoch_0(trained, tmp_path, monkeypatch):
    """A learning rate of nearly nothing and statistics that stand still: an epoch can be as good, never better."""
    monkeypatch.setattr(nn.BatchNorm1d, "train", lambda norm, mode=True: nn.Module.train(norm, False))
    words = ("epochs=2", "optimizer.lr=1e-9", "--out", tmp_path / "tuned")
    result = invoke("finetune", trained[0], *words)
    assert result.exit_code == 0, result.output
    assert events(tmp_path / "tuned")[:2] == ["before", "start"]
    assert "resume" not in events(tmp_path / "tuned")
    report = (tmp_path / "tuned" / "report.md").read_text()
    assert "the weights it started from" in report
    (row,) = [line for line in report.splitlines() if line.startswith("| 0 |")]
    assert "(best)" in row
