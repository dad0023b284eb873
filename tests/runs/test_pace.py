"""The estimate of a run's time: it counts what the boundary costs, and leaves no trace."""

import pytest
from test_resume import flat

from sparsernn.cli.console_tables import plan_lines, plan_table
from sparsernn.kernels import available
from sparsernn.runs import estimate
from sparsernn.runs.assembly import assemble, create
from sparsernn.runs.plan import plan

MEMORY = {"name": "elementwise", "cell": "gru", "axis": "time", "hidden": 3, "noise": 0.5}
BOUNDARY = {
    "name": "alternating",
    "base": 1,
    "synthesizer": MEMORY,
    "scale": "rms",
    "lr": 0.01,
    "lr_end": 0.0,
}


@pytest.fixture
def run(tiny_recipe, tmp_path):
    recipe = tiny_recipe(boundary=BOUNDARY, optimizer={"name": "adam", "lr": 0.01})
    return create(recipe, tmp_path / "run")


def test_trying_leaves_the_run_as_it_was(run, monkeypatch):
    learnt, learn = [], run.boundary.learn
    monkeypatch.setattr(run.boundary, "learn", lambda: (learnt.append(run.boundary.injecting), learn()))
    before = dict(flat(run.state()))
    assert plan(run)["estimated_seconds"] > 0
    assert learnt == [False] * 3 + [True] * 3  # each kind of epoch is tried
    assert dict(flat(run.state())) == before
    assert run.boundary.injecting is False


def test_each_epoch_counts_with_the_time_of_its_kind(run, monkeypatch):
    monkeypatch.setattr(estimate, "_seconds_per_step", lambda run, epoch: {1: 10.0, 2: 1.0}[epoch])
    steps = run.task.steps_per_epoch(run.recipe.seed)
    assert plan(run)["estimated_seconds"] == steps * (2 * 10 + 1)  # real, synthetic, real


def test_plan_shows_the_synthesizer_apart(run):
    intent = plan(run, measure=False)
    count = sum(p.numel() for p in run.boundary.synthesizer.parameters())
    assert sum(row["numel"] for row in intent["boundary"]) == count
    assert intent["parameters_total"] == sum(p.numel() for p in run.model.parameters())
    assert f"synthesizer {count:,} more parameters, in training only" in plan_lines(intent)
    names = list(plan_table(intent).columns[0].cells)
    assert names[: len(intent["tensors"])] == [row["name"] for row in intent["tensors"]]
    assert "synthesizer.encoder.weight" in names[len(intent["tensors"]) :]


def test_plain_runs_have_none(tiny_recipe):
    intent = plan(assemble(tiny_recipe()), measure=False)
    assert intent["boundary"] == []
    assert not [line for line in plan_lines(intent) if "synthesizer" in line]


def test_a_plan_knows_whether_kernels_are_missing(tiny_recipe, monkeypatch):
    run = assemble(tiny_recipe())
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    assert plan(run, measure=False)["no_kernels"] == "SPARSERNN_NO_KERNELS is set"
    monkeypatch.delenv("SPARSERNN_NO_KERNELS")
    assert (plan(run, measure=False)["no_kernels"] == "") == available()
