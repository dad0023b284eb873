"""A learning rate with milestones: epoch by epoch, resumed, and refused."""

import pytest

from sparsernn.core.errors import InputError
from sparsernn.optim import make_learning_rate
from sparsernn.runs.assembly import assemble


def rates(rate, epochs):
    """The learning rate of each epoch."""
    found = []
    for _ in range(epochs):
        found.append(rate(0))
        rate.observe(9.0)
    return found


def test_the_rate_falls_after_each_milestone():
    """The published schedule of enwik8, divided by 10 after epochs 25 and 35 of 50."""
    found = rates(make_learning_rate({"name": "milestones", "start": 1e-3, "epochs": [25, 35]}, steps=7), 50)
    assert found == pytest.approx([1e-3] * 25 + [1e-4] * 10 + [1e-5] * 15)


def test_it_goes_on_from_its_state():
    whole, first, second = (
        make_learning_rate({"name": "milestones", "start": 1.0, "epochs": [1, 3], "factor": 0.5}, 7)
        for _ in range(3)
    )
    rates(first, 2)
    second.load_state_dict(first.state_dict())
    assert rates(second, 3) == rates(whole, 5)[2:] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "settings", [{"start": 0.0}, {"factor": 0.0}, {"factor": 2.0}, {"epochs": [0]}, {"epochs": [3, 2]}]
)
def test_milestones_that_cannot_be_are_refused(tiny_recipe, settings):
    lr = {"name": "milestones", "start": 1.0, "epochs": [2], **settings}
    with pytest.raises(InputError, match=r"schedule.[a-z]+ is .*; it must be"):
        assemble(tiny_recipe(optimizer={"name": "sgd", "lr": lr}))
