"""What a task adds up within an epoch goes on with a resumed run."""

import json

import pytest
from test_resume import StopAt, assert_resumes

from sparsernn.runs.assembly import open_run
from sparsernn.runs.evaluation import evaluate_run

STEPS = 5  # of an epoch: 40 tokens of each stream in windows of 8


@pytest.fixture
def recite(tiny_recipe, tiny_corpus):
    """A recipe that learns 120 tokens by heart."""
    return tiny_recipe(
        epochs=3,
        checkpoint_seconds=1000,
        task={
            "name": "recitation",
            "corpus": {"name": "folder", "path": str(tiny_corpus)},
            "tokens": 120,
            "batch_size": 3,
            "window": 8,
        },
        model={"name": "language_model", "embedding_size": 8, "hidden_sizes": [16]},
        optimizer={"name": "adam", "lr": 0.02},
        sparsity={"name": "dense"},
    )


@pytest.mark.parametrize("stop", [StopAt(step=STEPS + 3), StopAt(step=2 * STEPS), StopAt(evaluation=2)])
def test_the_accuracy_in_training_survives_a_stop(recite, tmp_path, stop):
    assert_resumes(recite, tmp_path, stop)
    lines = map(json.loads, (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines())
    shares = [line["valid"]["accuracy_in_training"] for line in lines if line["event"] == "epoch"]
    assert len(shares) == 3
    assert 0 < shares[0] < shares[2] < 1
    # other weights, so nothing was added up with them
    assert "accuracy_in_training" not in evaluate_run(open_run(tmp_path / "cut"), "valid")
