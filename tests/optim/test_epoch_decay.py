"""Learning rates that fall from epoch to epoch: the published tables."""

import pytest

from sparsernn.core.errors import InputError
from sparsernn.optim import EpochDecay, make_learning_rate


def rates(schedule, epochs):
    """The rate of each epoch, as a training loop meets them."""
    found = []
    for _ in range(epochs):
        found.append(schedule(123))
        schedule.observe(5.0)
    return found


@pytest.mark.parametrize(
    ("constant", "divide_by", "epochs"),
    [(4, 2, 13), (6, 1.25, 39), (14, 1.15, 55)],
    ids=["small", "medium", "large"],
)
def test_the_three_models_of_zaremba(constant, divide_by, epochs):
    """lr * decay^max(e - constant, 0), e from 1, decay 0.5, 0.8 and 1 / 1.15."""
    decay = {2: 0.5, 1.25: 0.8, 1.15: 1 / 1.15}[divide_by]
    found = rates(EpochDecay(1.0, divide_by, constant=constant), epochs)
    assert found == pytest.approx([decay ** max(e - constant, 0) for e in range(1, epochs + 1)])
    assert found[constant - 1 : constant + 1] == pytest.approx([1.0, decay])


def test_three_stages():
    """The published group lasso: epochs 1 to 18, 19 to 36, 37 to 54, and the 55th: 0.1^(epoch // (55 // 3))."""
    found = rates(EpochDecay(1.0, 10, constant=18, every=18), 55)
    assert found == pytest.approx([1.0] * 18 + [0.1] * 18 + [0.01] * 18 + [0.001])
    assert found == pytest.approx([0.1 ** (epoch // (55 // 3)) for epoch in range(55)])


def test_the_two_policies_of_the_highway_network():
    """quick_start: 0.2 / 1.02^max(i - 20 + 1, 0); equal_step: 0.2 / 1.02^(i // 166); i from 0."""
    quick = rates(EpochDecay(0.2, 1.02, constant=20), 500)
    assert quick == pytest.approx([0.2 / 1.02 ** max(i - 20 + 1, 0) for i in range(500)])
    assert quick[19:21] == pytest.approx([0.2, 0.2 / 1.02])
    equal = rates(EpochDecay(0.2, 1.02, constant=166, every=166), 500)
    assert equal == pytest.approx([0.2 / 1.02 ** (i // 166) for i in range(500)])


def test_the_epoch_is_its_state():
    spec = {"name": "epoch_decay", "start": 8.0, "divide_by": 2.0, "constant": 1}
    whole, half = make_learning_rate(spec, steps=10), make_learning_rate(spec, steps=10)
    rates(half, 3)
    rates(whole, 3)
    resumed = make_learning_rate(spec, steps=10)
    resumed.load_state_dict(half.state_dict())
    assert rates(resumed, 4) == rates(whole, 4) == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divide_by": 0.0}, "divide_by is 0.0; it must be .* above 0"),
        ({"start": -1.0}, "start is -1.0"),
        ({"every": 0}, "every is 0; it must be .* at least 1"),
        ({"constant": -1}, "constant is -1; it must be .* at least 0"),
        ({"constant": 1.5}, "must be a whole number"),
    ],
)
def test_impossible_settings_are_answered(settings, message):
    spec = {"name": "epoch_decay", "start": 1.0, "divide_by": 2.0, **settings}
    with pytest.raises(InputError, match=message):
        make_learning_rate(spec, steps=10)
