"""Runs on a graphics card, where there is one; on the CPU where there is none, so that these tests are known to work.

Only what a pretended device cannot show: that numbers come out right, and the same bits again.
"""

import pytest
import torch
from test_every_recipe import tiny

from sparsernn.report import load_run
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.runs.run import LAST, weights
from test_recipes_train import data  # noqa: F401 - a fixture

PLACE = "cuda" if torch.cuda.is_available() else "cpu"
RECIPES = (
    "selfish/lstm-ptb-small",
    "selfish/rhn-ptb",
    "selfish/onlstm-ptb",
    "awd/qrnn-ptb",
    "blocks/lstm-ptb-small",
)


def recipe(name, folder, *settings):
    """In small, on the card."""
    return tiny(name, folder, f"device={PLACE}", *settings)


@pytest.fixture(autouse=True)
def bits_as_before():
    """`deterministic: true` holds for the process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_goes_on_to_the_bit(name, data, tmp_path):  # noqa: F811
    whole = create(recipe(name, data, "deterministic=true"), tmp_path / "whole")
    train(whole)
    begun = create(recipe(name, data, "deterministic=true"), tmp_path / "begun")
    begun.recipe = recipe(name, data, "deterministic=true", "epochs=1")
    train(begun)
    again = open_run(tmp_path / "begun")
    assert next(again.model.parameters()).device.type == PLACE
    train(again)
    saved = [load_checkpoint(tmp_path / run / LAST)["model"] for run in ("whole", "begun")]
    for key, weight in saved[0].items():
        assert torch.equal(saved[1][key], weight), key


@pytest.mark.parametrize("name", RECIPES)
def test_the_cpu_finds_the_scores_of_the_card(name, data, tmp_path):  # noqa: F811
    run = create(recipe(name, data), tmp_path / "run")
    train(run)
    there, here = (
        evaluate_run(open_run(tmp_path / "run", device=place), "valid")["loss"] for place in (PLACE, "cpu")
    )
    assert there == pytest.approx(here, rel=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", *(["tf32"] if PLACE == "cuda" else [])])
@pytest.mark.parametrize("name", RECIPES)
def test_products_in_fewer_bits_are_close(name, precision, data, tmp_path):  # noqa: F811
    """In the first step, whose dropouts are the same."""
    first = []
    for chosen in ("float32", precision):
        run = create(recipe(name, data, f"precision={chosen}", "log_every=1"), tmp_path / chosen)
        train(run)
        first.append(load_run(run.home).of("step")[0]["loss"])
        assert all(w.dtype == torch.float32 for w in weights(run.model).values() if w.is_floating_point())
    assert first[1] == pytest.approx(first[0], rel=0.01)
