"""Schedules: golden values, end points, settings."""

import math

import pytest

from sparsernn.core.errors import InputError
from sparsernn.optim import Plateau, make_learning_rate
from sparsernn.optim.schedules import constant, cosine, exponential, linear, make_schedule
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.loop import train


def test_cosine_has_the_published_values():
    rate = cosine(0.8, 0.005, 132_797)
    golden = {0: 0.8, 1328: 0.799804, 66_398: 0.402505, 131_469: 0.005196, 132_797: 0.005}
    assert {step: round(rate(step), 6) for step in golden} == golden


@pytest.mark.parametrize("kind", [cosine, linear])
def test_ends_stay_put(kind):
    rate = kind(0.7, 0.1, 10)
    assert rate(0) == pytest.approx(0.7)
    assert rate(10) == rate(1000) == pytest.approx(0.1)


def test_a_schedule_may_set_its_own_length():
    assert make_schedule({"name": "linear", "start": 1.0, "end": 0.0, "steps": 4}, steps=100)(4) == 0.0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cosin", "Did you mean 'cosine'"),
        ({"name": "cosine", "start": 1.0}, "needs a value for 'end'"),
        (None, "a finite number or a name or a mapping"),
        (True, "a finite number or a name or a mapping"),
        (float("nan"), "a schedule is nan; it must be a finite number"),
        ({"name": "cosine", "start": "high", "end": 0.0}, "schedule.start is 'high'; it must be a finite"),
        ({"name": "constant", "value": "x"}, "schedule.value is 'x'"),
        ({"name": "exponential", "start": 1, "factor": 0.5, "every": 2.5}, "schedule.every is 2.5"),
        ({"name": "linear", "start": 1, "end": 0, "steps": "long"}, "schedule.steps is 'long'"),
        ({"name": "linear", "start": 1, "end": 0, "steps": 0}, "steps is 0"),
    ],
)
def test_bad_schedules_are_answered_in_one_sentence(spec, words):
    with pytest.raises(InputError, match=words):
        make_schedule(spec, steps=10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: constant("high"), "value is 'high'"),
        (lambda: cosine(1.0, 0.0, 0), "steps is 0"),
        (lambda: linear(1.0, 0.0, 0), "steps is 0"),
        (lambda: linear(1.0, None, 5), "end is None"),
        (lambda: exponential(1.0, 0.0, 3), "factor is 0.0"),
        (lambda: exponential(1.0, 0.5, 0), "every is 0"),
    ],
)
def test_who_calls_a_schedule_is_answered_as_a_recipe_is(call, words):
    with pytest.raises(InputError, match=f"{words}; it must be"):
        call()


def test_a_plateau_cuts_after_each_epoch_that_is_not_the_best_so_far():
    rate = make_learning_rate({"name": "plateau", "start": 8.0, "factor": 0.5, "end": 0.5}, steps=100)
    seen = []
    for loss in (5.0, 4.0, 4.5, 4.2, 3.9, 3.9, math.nan, 4.0, 4.0):
        rate.observe(loss)
        seen.append(rate(0))
    assert seen == [8.0, 8.0, 4.0, 2.0, 2.0, 1.0, 0.5, 0.5, 0.5]


def test_a_patient_plateau_counts_anew_after_a_cut():
    rate = Plateau(1.0, factor=0.1, patience=1)
    seen = []
    for loss in (1.0, 2.0, 2.0, 2.0, 2.0, 0.5, 2.0):
        rate.observe(loss)
        seen.append(rate(0))
    assert seen == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_a_plateau_goes_on_from_its_state():
    first, second = Plateau(1.0, patience=1), Plateau(1.0, patience=1)
    for loss in (3.0, 4.0, 4.0, 4.0):
        first.observe(loss)
    second.load_state_dict(first.state_dict())
    for rate in (first, second):
        rate.observe(4.0)
    assert first(0) == second(0) == 0.25


def test_a_run_hears_its_validation_loss_and_resumes(tiny_recipe, tmp_path):
    """Every epoch at this rate is worse than the first, so that the rate is halved after each but that."""
    recipe = tiny_recipe(
        optimizer={"name": "sgd", "lr": {"name": "plateau", "start": 1e-12}},
        epochs=2,
        sparsity={"name": "dense"},
    )
    run = create(recipe, tmp_path / "run")
    losses = iter([1.0, 2.0, 3.0])
    run.task.evaluate = lambda *args, **more: {
        "loss": next(losses),
        "perplexity": 1.0,
        "bits": 1.0,
        "tokens": 1,
    }
    train(run)
    assert run.schedule(0) == 5e-13
    assert open_run(tmp_path / "run").schedule.state_dict() == {"rate": 5e-13, "best": 1.0, "waited": 0}


@pytest.mark.parametrize(
    "settings", [{"factor": 0.0}, {"factor": 1.5}, {"patience": -1}, {"end": -0.1}, {"start": 0.0}]
)
def test_a_plateau_that_cannot_be_is_refused(tiny_recipe, settings):
    spec = {"name": "plateau", "start": 1.0, **settings}
    with pytest.raises(InputError, match="must be"):
        assemble(tiny_recipe(optimizer={"name": "sgd", "lr": spec}))


def test_masks_do_not_move_by_a_schedule_that_nobody_tells_the_loss():
    with pytest.raises(InputError, match="schedule 'plateau' is unknown"):
        make_schedule({"name": "plateau", "start": 0.5}, steps=10)
