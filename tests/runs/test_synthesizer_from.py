"""A run that starts with the synthesizer that another one has trained."""

import re
import shutil

import pytest
import torch
from test_resume import history

from sparsernn.core.errors import InputError
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.loop import train
from sparsernn.runs.warm_start import take_synthesizer

SYNTHESIZER = {"name": "elementwise", "cell": "gru", "axis": "time", "hidden": 3}
BOUNDARY = {"name": "synthetic_gradient", "synthesizer": SYNTHESIZER, "scale": "rms", "lr": 0.01}
ADAM = {"name": "adam", "lr": 0.01}


@pytest.fixture
def recipe(tiny_recipe):
    def build(**settings):
        return tiny_recipe(boundary={**BOUNDARY, **settings}, optimizer=ADAM, epochs=1, sparsity="dense")

    return build


def learnt(run):
    return [p.clone() for p in run.boundary.synthesizer.parameters()]


def test_it_starts_there_stays_if_told_and_can_be_resumed_when_the_other_run_is_gone(recipe, tmp_path):
    first = create(recipe(), tmp_path / "first")
    train(first)
    given = {"synthesizer_from": str(tmp_path / "first"), "lr": 0.002, "learn": False}
    second = create(recipe(**given), tmp_path / "second")
    moments = [
        [
            [state[key] for key in sorted(state)]
            for state in run.boundary.optimizer.state_dict()["state"].values()
        ]
        for run in (first, second)
    ]
    assert all(torch.equal(a, b) for x, y in zip(*moments, strict=True) for a, b in zip(x, y, strict=True))
    assert moments[1]
    assert second.boundary.optimizer.param_groups[0]["lr"] == 0.002
    assert second.boundary.rms == first.boundary.rms > 0
    assert second.boundary.memory is None
    assert all(map(torch.equal, learnt(second), learnt(first)))
    train(second)
    assert all(map(torch.equal, learnt(second), learnt(first)))  # it learns nothing more
    injected = [r["sg_injected"] for r in history(tmp_path / "second") if r["event"] == "step"]
    assert min(injected[1:]) > 0  # and is listened to
    shutil.rmtree(tmp_path / "first")
    assert all(map(torch.equal, learnt(open_run(tmp_path / "second")), learnt(second)))


def test_what_does_not_fit_is_said_in_one_sentence(recipe, tiny_recipe, tmp_path):
    create(recipe(), tmp_path / "other")
    create(tiny_recipe(optimizer=ADAM, sparsity="dense"), tmp_path / "plain")
    last = re.escape(str(tmp_path / "other" / "last.safetensors"))
    wrong = {
        r"^boundary.synthesizer_from: there is no file nowhere\.$": {"synthesizer_from": "nowhere"},
        r"plain/last.safetensors holds no synthesizer; it must be": {
            "synthesizer_from": str(tmp_path / "plain")
        },
        last + r" holds another synthesizer: '.*' has shape \(3, 1\) there and \(4, 1\) here\.": {
            "synthesizer": {**SYNTHESIZER, "hidden": 4}
        },
        last + r" holds another synthesizer: the tensor '.*' is on one side only\.": {"synthesizer": "mlp"},
        r"estimates have the unit 'rms'; boundary.scale is 'tokens'\.": {"scale": "tokens"},
    }
    for words, settings in wrong.items():
        run = assemble(recipe(**{"synthesizer_from": str(tmp_path / "other"), **settings}))
        with pytest.raises(InputError, match=words) as caught:
            take_synthesizer(run)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="synthesizer_from is 3; it must be a string or null"):
        assemble(recipe(synthesizer_from=3))
    with pytest.raises(InputError, match="there is no file"):
        create(recipe(synthesizer_from="nowhere"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
