"""Runs of the long-memory tasks are resumed to the bit, maps with their bases and counters included."""

import pytest
from test_resume import StopAt, assert_resumes

from sparsernn.runs.recipe import load_recipe

SMALL = [
    "task.delay=6",
    "task.length=2",
    "task.iterations=5",
    "task.eval_sequences=6",
    "model.hidden_sizes=[8]",
    "epochs=3",
    "log_every=2",
    "checkpoint_seconds=1000",
    "threads=1",
]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nnrnn/copy-nnrnn", []),
        ("nnrnn/copy-exprnn", ["model.layer.map.rebase_every=3"]),
        ("nnrnn/copy-eurnn", ["model.layer.map.capacity=4"]),
        ("nnrnn/copy-lstm", ["task.variable=true"]),
    ],
)
def test_copying_resumes_to_the_bit(name, more, tmp_path):
    assert_resumes(load_recipe(name, [*SMALL, *more]), tmp_path, StopAt(step=7))
