"""Runs with synthetic gradients are resumed to the bit, in the middle of their phases too."""

import json

import pytest
from test_resume import StopAt, assert_resumes

from sparsernn.runs.assembly import assemble, create
from sparsernn.runs.loop import train
from sparsernn.runs.plan import plan

MEMORY = {"name": "elementwise", "cell": "gru", "axis": "time", "hidden": 3, "noise": 0.5}
LEARNT = {"noise": 0.5, "hidden": 3, "cell": "gru"}
BOUNDARIES = {
    "memory": {"name": "synthetic_gradient", "synthesizer": MEMORY, "scale": "rms"},
    "alternating": {"name": "alternating", "base": 1, "injection": "training"},
    "published": {
        "name": "alternating",
        "base": [2, 3],
        "switch_epochs": [2],
        "synthesizer": {"name": "elementwise", "axis": "flat", **LEARNT, "layers": 2, "dropout": 0.2},
        "faithful": True,
    },
}
RATE = {"name": "restarts", "start": 0.02, "base": 1}


@pytest.mark.parametrize("name", BOUNDARIES)
@pytest.mark.parametrize(
    "stop", [StopAt(step=31), pytest.param(StopAt(evaluation=1), marks=pytest.mark.slow)]
)
def test_resumes_to_the_bit(tiny_recipe, tmp_path, name, stop):
    optimizer = {"name": "adam", "lr": RATE}
    recipe = tiny_recipe(boundary=BOUNDARIES[name], optimizer=optimizer, checkpoint_seconds=1000)
    assert_resumes(recipe, tmp_path, stop)


def test_events_plan_and_report_tell_of_them(tiny_recipe, tmp_path):
    recipe = tiny_recipe(boundary=BOUNDARIES["alternating"], optimizer={"name": "adam", "lr": RATE})
    run = create(recipe, tmp_path / "run")
    rows = plan(run, measure=False)["phases"]
    assert [(r["first"], r["last"], r["source"]) for r in rows] == [
        (1, 1, "real"),
        (2, 2, "synthetic"),
        (3, 3, "real"),
    ]
    train(run)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["epoch"] for e in events if e["event"] == "phase"] == [1, 2, 3]
    steps = [e for e in events if e["event"] == "step"]
    assert all(-1 <= e["sg_cosine"] <= 1 and e["sg_rms_ratio"] >= 0 for e in steps[1:])
    by_epoch = {epoch: [e["sg_injected"] for e in steps[1:] if e["epoch"] == epoch] for epoch in (2, 3)}
    assert min(by_epoch[2][1:]) > 0
    assert max(by_epoch[3][1:]) == 0
    shares = {epoch: [e for e in steps if e["epoch"] == epoch and "sg_share" in e] for epoch in (1, 2, 3)}
    assert [len(shares[epoch]) > 0 for epoch in (1, 2, 3)] == [False, True, False]
    assert all(e["sg_share"] > 0 for e in shares[2][1:])
    from sparsernn.report.charts.synthetic_charts import synthetic_charts
    from sparsernn.report.story.history import load_run

    assert len(synthetic_charts(load_run(tmp_path / "run"))) == 3


def test_plain_runs_have_no_phases(tiny_recipe):
    run = assemble(tiny_recipe())
    assert plan(run, measure=False)["phases"] == []
