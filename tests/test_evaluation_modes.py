"""Evaluation of a run with a neural cache or learning on the way, from Python and from the command line."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.cli.evaluation_options import OPTIONS
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.tasks.cache_pointer import NeuralCache
from sparsernn.tasks.dynamic_evaluation import DynamicEvaluation

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
LEARNING = ("--dynamic", "--statistics-batch", 20, "--max-batches", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a finished run lies."""
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.fixture
def run(folder, tiny_recipe):
    """A finished sparse run, trained once."""
    if not folder.exists():
        train(create(tiny_recipe(epochs=2), folder))
    return folder


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)], prog_name="sparsernn")


def printed(*words):
    """The scores that a command prints, once it is checked that it ended well."""
    result = evaluate(*words)
    assert result.exit_code == 0, result.output
    found = dict(re.findall(r"^  (\w+) +([\d.,]+)$", result.output, re.M))
    return {name: float(value.replace(",", "")) for name, value in found.items()}, result.output


def fault(*words):
    """The one sentence that a faulty command answers with."""
    result = evaluate(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def test_a_mode_reads_one_stream_and_gets_the_masks_of_the_best_weights(run):
    opened, seen = open_run(run), {}

    class Spy:
        def evaluate(self, task, model, split, *, batch_size, masks, tick):
            seen.update(split=split, batch_size=batch_size, masks=masks)
            return {"loss": 1.0}

    found = evaluate_run(opened, "valid", mode=Spy())
    assert (found["loss"], found["split"], found["batch_size"], found["epoch"]) == (1.0, "valid", 1, 2)
    assert seen["batch_size"] == 1
    parameters = dict(opened.model.named_parameters())
    assert seen["masks"].keys() == opened.sparsifier.masks().keys()
    assert all(bool((parameters[name][~mask] == 0).all()) for name, mask in seen["masks"].items())


def test_without_a_mode_the_streams_are_the_recipes_unless_others_are_asked_for(run):
    opened = open_run(run)
    asked = opened.task.eval_batch_size, 3
    assert [evaluate_run(opened, "valid", size)["batch_size"] for size in (None, 3)] == [*asked]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_command_prints_what_the_modes_find(run, split):
    static, text = printed(run, "--split", split, "--batch-size", 1)
    assert text.startswith(f"{split}: averaged weights of epoch 2, streams read at once: 1")
    cache, text = printed(run, "--split", split, "--pointer", "--window", 40, "--theta", 0.5, "--lambda", 0.2)
    expected = evaluate_run(open_run(run), split, mode=NeuralCache(40, 0.5, 0.2))
    assert cache["loss"] == pytest.approx(expected["loss"], abs=1e-4) != static["loss"]
    assert "window 40, theta 0.5, mixing 0.2" in text
    learning, text = printed(run, "--split", split, *LEARNING, "--lr", 0.01)
    mode = DynamicEvaluation(lr=0.01, statistics_batch=20, max_batches=3)
    expected = evaluate_run(open_run(run), split, mode=mode)
    assert learning["loss"] == pytest.approx(expected["loss"], abs=1e-4) != static["loss"]
    assert "max_batches 3" in text


def test_tuning_never_loses_on_valid(run):
    static, _ = printed(run, "--split", "valid", "--batch-size", 1)
    tuned, _ = printed(run, "--split", "valid", "--pointer", "--tune", "--window", 60)
    assert tuned["loss"] <= static["loss"] + 1e-4


def test_further_options_reach_the_modes(run):
    _, text = printed(run, "--pointer", "--preset", "wikitext-2", "--window", 70, "--full-window")
    assert "window 70, theta 0.66" in text
    assert "partly_filled False" in text
    _, text = printed(run, *LEARNING, "--ms", "--lamb", 0.1, "--epsilon", 0.5, "--segment", 9)
    assert "lamb 0.1, lr 0.002, epsilon 0.5, segment 9" in text
    assert "statistics mean" in text


def test_nothing_is_written(run):
    before = {path: path.read_bytes() for path in run.iterdir()}
    evaluate(run, "--pointer", "--tune")
    evaluate(run, *LEARNING)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--pointer", "--dynamic"), "exclude each other"),
        (("--theta", 1), "--theta is an option of --pointer"),
        (("--lamb", 1, "--pointer"), "--lamb is an option of --dynamic"),
        (("--ms",), "--ms is an option of --dynamic"),
        (("--pointer", "--tune", "--lambda", 0.1), "--tune chooses --theta and --lambda"),
        (("--pointer", "--lambda", 1.5), "--lambda is 1.5; it must be a finite number in [0, 1)"),
        (("--pointer", "--window", 0), "--window is 0"),
        (("--pointer", "--preset", "wt2"), "--preset is 'wt2'; it must be ptb or wikitext-2"),
        (("--dynamic", "--epsilon", 0), "--epsilon is 0.0"),
        (("--dynamic", "--statistics-batch", 100_000), "statistics_batch is 100000"),
        (("--pointer", "--split", "tset"), "known: test, train, valid"),
    ],
)
def test_faults_are_one_sentence(run, words, sentence):
    assert sentence in fault(run, *words)


def test_the_page_about_evaluation_runs(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "runs" / "small")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    exec("\n".join(blocks), {})
    assert len(blocks) == 2
    assert len(capsys.readouterr().out.split()) == 4


def test_the_page_about_evaluation_names_every_option():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{option}`" in text for options in OPTIONS.values() for option in options.values())
