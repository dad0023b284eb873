"""Taggers and reciters on the command line: their own scores, the confusion, why training ended."""

import json
import re

import pytest
from typer.testing import CliRunner

from sparsernn.cli.app import app

TAGGER = """
task: {name: tagging, corpus: conll, batch_size: 4}
model: {name: tagger, embedding_size: 4, hidden_size: 4}
optimizer: {name: adam, lr: 0.05}
epochs: 2
threads: 1
"""
RECITER = """
task: {name: recitation, corpus: folder, tokens: 12, batch_size: 1, window: 11}
model: {name: language_model, embedding_size: 8, hidden_sizes: [16]}
optimizer: {name: adam, lr: 0.05}
epochs: 200
threads: 1
"""
SENTENCE = "the\tDET\nold\tADJ\ndog\tNOUN\nbarks\tVERB\n"


def answer(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")
    assert result.exit_code == 0, result.output
    return result.output


def run_of(recipe, folder):
    """Train a recipe on the files of a folder; the run's folder."""
    (folder / "own.yaml").write_text(recipe)
    answer("train", folder / "own.yaml", "--data", folder, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def texts(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(
            "one two three four five six one three two five four six one\n"
        )
    return tmp_path


@pytest.fixture
def treebank(tmp_path):
    for split, new in (("train", "old"), ("valid", "old"), ("test", "grey")):
        (tmp_path / f"{split}.conll").write_text("\n".join([SENTENCE.replace("old", new)] * 6))
    return tmp_path


def test_scores_of_a_tagger_stand_apart_from_their_names(treebank):
    run = run_of(TAGGER, treebank)
    lines = answer("evaluate", run).splitlines()[1:]
    assert all(re.fullmatch(r"  [a-z_]+ {2,}[\d.,]+", line) for line in lines)
    assert {line.split()[0] for line in lines} >= {"accuracy", "known_accuracy", "unknown_accuracy", "tokens"}
    page = (run / "report.html").read_text()
    assert "Right and given labels, test" in page
    assert ">unknown accuracy<" in page
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (found,) = [event for event in events if event["event"] == "confusion"]
    assert sum(map(sum, found["counts"])) == 24
    assert (found["split"], found["epoch"]) == (
        "test",
        next(e["epoch"] for e in events if e["event"] == "test"),
    )


def test_a_reciter_says_how_far_it_gets_and_why_it_ended(texts):
    run = run_of(RECITER, texts)
    output = answer("evaluate", run)
    assert re.search(r"recital +11\.0000", output)
    assert re.search(r"training ended with epoch \d+, for the task is solved", output)
    page = (run / "report.html").read_text()
    assert "ended there, for the task is solved" in page
    assert ">recital<" in page
    assert ">accuracy in training<" in page


def test_the_tagged_corpora_are_listed_with_their_places(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSERNN_DATA", str(tmp_path))
    rows = {line.split()[0]: line for line in answer("data", "list").splitlines() if line.strip()}
    assert "--data PLACE" in rows["ud-ewt"]
    assert " tags " in rows["conll"]
    assert "comes along" in rows["python-roles"]
    (tmp_path / "ud-ewt").mkdir()
    (tmp_path / "ud-ewt" / "en_ewt-ud-dev.conllu").write_text("")
    assert str(tmp_path)[:12] in answer("data", "list")
