"""A run folder written by version 0.1.0, stopped in its second epoch, still opens and goes on.

`earlier_run/run` is that folder, `text` its corpus, and `whole.json` the test scores of the same recipe trained
without a stop by the same version.
"""

import json
import shutil
from pathlib import Path

import pytest

import sparsernn as sr

EARLIER = Path(__file__).parent / "earlier_run"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(EARLIER / "run", tmp_path / "run"))


def test_it_goes_on_to_where_it_would_have_come(folder):
    run = sr.load(folder, data=EARLIER / "text")
    assert run.history["epoch"] == [1]
    done = run.resume(progress=False)
    whole = json.loads((EARLIER / "whole.json").read_text(encoding="utf-8"))
    assert done.history["epoch"] == [1, 2, 3, 4]
    assert done.scores["tokens"] == whole["tokens"]
    # other processors add in another order
    assert done.scores["loss"] == pytest.approx(whole["loss"], rel=0.02)


def test_its_records_and_weights_are_read(folder):
    run = sr.load(folder, data=EARLIER / "text")
    masks = run.sparsifier.masks()
    weights = dict(run.model.named_parameters())
    assert masks
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
    assert len(run.generate("the cat", tokens=6).split()) >= 6
    assert "Selfish" in run.report().read_text(encoding="utf-8")
