"""Runs of quasi-recurrent language models are resumed to the bit: the previous inputs are part of what is saved."""

import pytest
from test_resume import StopAt, assert_resumes

LAYERS = [
    {"name": "qrnn", "window": 3, "zoneout": 0.2, "weight_drop": 0.3},
    {"name": "qrnn", "window": 2, "pooling": "ifo"},
]


@pytest.mark.parametrize("stop", [StopAt(step=31), StopAt(evaluation=2)])
def test_it_resumes_to_the_bit(tiny_recipe, tmp_path, stop):
    model = {
        "name": "language_model",
        "embedding_size": 4,
        "hidden_sizes": [6, 4],
        "layer": LAYERS,
        "tied": True,
    }
    recipe = tiny_recipe(model=model, optimizer={"name": "adam", "lr": 0.01}, checkpoint_seconds=1000)
    assert_resumes(recipe, tmp_path, stop)
