"""The first weights of RNN-orth are drawn as in the published code, and it learns to copy as fast."""

import json
import statistics

import pytest

from sparsernn.runs.assembly import create
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import load_recipe

SEEDS = range(1, 7)


def lowest_loss(seed, folder):
    """The lowest validation loss of RNN-orth in the first 600 steps of copying over a delay of 200.

    Not the last: training has spikes, and one of six seeds is in one at step 600.
    """
    settings = ["epochs=6", "threads=1", f"seed={seed}", "checkpoint_seconds=1000"]
    train(create(load_recipe("nnrnn/copy-rnn-orth", settings), folder))
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return min(event["valid"]["loss"] for event in events if event["event"] == "epoch")


@pytest.mark.slow
def test_rnn_orth_copies_after_600_steps(tmp_path):
    """Measured: a mean of 0.0080, a minute and a half of an AMD EPYC's core; the published code: 0.0087."""
    assert statistics.fmean(lowest_loss(seed, tmp_path / str(seed)) for seed in SEEDS) < 0.0095
