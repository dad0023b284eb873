"""Settings of the engine: types and ranges; and the moments at which updates are due."""

import pytest

from sparsernn.core.errors import InputError
from sparsernn.sparsity.dynamic.engine_settings import Updates, parse
from sparsernn.sparsity.dynamic.update_times import Length, is_due


@pytest.mark.parametrize("value", ["no", "yes", "off", 0, 1, None])
@pytest.mark.parametrize("key", ["exact", "regrow_excludes_just_pruned", "block_fallback", "faithful"])
def test_a_switch_is_true_or_false(key, value):
    with pytest.raises(InputError, match=f"^{key} is {value!r}; it must be true or false.$"):
        parse({"density": 0.5, key: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": "x"}, "tau is 'x'; it must be a finite number"),
        ({"tau": 0}, "tau is 0; it must be a finite number above 0"),
        ({"tau": -0.1}, "tau is -0.1; it must be a finite number above 0"),
        ({"momentum_beta": 1}, r"momentum_beta is 1; it must be a finite number in \[0, 1\)"),
        ({"momentum_beta": -0.1}, r"momentum_beta is -0.1; it must be a finite number in \[0, 1\)"),
        ({"momentum_beta": "x"}, "momentum_beta is 'x'"),
        ({"prune_rate_end": "x"}, "prune_rate_end is 'x'"),
        ({"prune_rate_end": 1.5}, r"prune_rate_end is 1.5; it must be a finite number in \[0, 1\]"),
        ({"include": 5}, "include is 5; it must be a list"),
        ({"exclude": ["a", 5]}, "exclude is .* it must be a list"),
        (
            {"block": 16},
            "block is 16; it must be auto or a list of 2, each entry a whole number of at least 1",
        ),
        ({"block": [True, 16]}, "block is .* a list of 2, each entry a whole number of at least 1"),
        ({"block": [16]}, "block is .* a list of 2, each entry a whole number of at least 1"),
        ({"update": {"last": "no"}}, "update.last is 'no'; it must be true or false"),
        ({"update": {"every": "often"}}, "update.every is 'often'; it must be a whole number"),
        ({"update": {"every": True}}, "update.every is True; it must be a whole number"),
        ({"update": {"every": -1}}, "update.every is -1"),
        ({"update": {"start": "x"}}, "update.start is 'x'; it must be a finite number"),
        ({"update": {"stop": None}}, "update.stop is None; it must be a finite number"),
    ],
)
def test_types_and_ranges(settings, message):
    with pytest.raises(InputError, match=message):
        parse({"density": 0.5, **settings})


def test_the_edges_of_the_ranges_are_accepted():
    settings = parse({"density": 1, "momentum_beta": 0, "tau": 1e-9, "block": (1, 2), "faithful": False})
    assert (settings.regrowth.momentum_beta, settings.rules.exact) == (0, True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("every", [1, 2, 3, 4])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("length", [Length(24, 6), Length(24, None)])
def test_the_end_of_the_run_has_an_update_only_if_asked_for(unit, every, last, length):
    updates, per_epoch = Updates(every=every, unit=unit, last=last), 4
    due = {"epoch": [], "step": []}
    for step in range(1, 25):
        due["step"] += [step] if is_due(updates, length, "step", step // per_epoch, step) else []
        if step % per_epoch == 0:
            epoch = step // per_epoch
            due["epoch"] += [epoch] if is_due(updates, length, "epoch", epoch, step) else []
    end = {"epoch": 6, "step": 24}[unit]
    expected = [k for k in range(every, end + 1, every) if last or k < end]
    assert due == {"epoch": [], "step": [], unit: expected}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stop", [0.5, 1.0])
def test_past_the_plan_masks_stay_as_they_are(stop, last):
    updates = Updates(unit="step", stop=stop, last=last)
    due = [step for step in range(1, 13) if is_due(updates, Length(8, 2), "step", 1, step)]
    assert due == list(range(1, 5 if stop == 0.5 else 8 + last))


def test_without_a_known_end_updates_go_on():
    assert all(is_due(Updates(), Length(), "epoch", epoch, 10 * epoch) for epoch in range(1, 200))
