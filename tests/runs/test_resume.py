"""A resumed run is the uninterrupted run, to the bit, wherever it was stopped."""

import json
import os
import signal

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.event_log import EventLog
from sparsernn.runs.loop import Interrupted, train
from sparsernn.runs.recipe import load_recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import BEST, LAST, Run

WALL_CLOCK = ("time", "seconds", "tokens_per_second")


def history(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in r.items() if k not in WALL_CLOCK}
        for r in records
        if r["event"] not in ("start", "resume", "sizes")  # the last of which times a token
    ]


def flat(node, path=""):
    if isinstance(node, torch.Tensor):
        yield path, node.tolist()
    elif isinstance(node, dict):
        for key, value in node.items():
            if key not in ("metrics_bytes", "seconds"):
                yield from flat(value, f"{path}/{key}")
    elif isinstance(node, list | tuple):
        for k, value in enumerate(node):
            yield from flat(value, f"{path}/{k}")
    else:
        yield path, node


def assert_same_run(a, b):
    for name in (LAST, BEST):
        left, right = dict(flat(load_checkpoint(a / name))), dict(flat(load_checkpoint(b / name)))
        assert left.keys() == right.keys()
        assert [key for key in left if left[key] != right[key]] == []
    assert history(a) == history(b)


class StopAt(Reporter):
    """Sends SIGTERM to this very process when a step or an evaluation is reached."""

    def __init__(self, step=None, evaluation=None):
        self.target, self.evaluation, self.evaluations = step, evaluation, 0

    def step(self, status):
        if status["step"] == self.target:
            os.kill(os.getpid(), signal.SIGTERM)

    def phase(self, name, fraction):
        if name == "valid" and fraction < 0.5:
            self.evaluations += 1
            if self.evaluations == self.evaluation:
                os.kill(os.getpid(), signal.SIGTERM)


def assert_resumes(recipe, folder, stop):
    """A run stopped by `stop` and taken up again is the run that nobody stopped."""
    train(create(recipe, folder / "whole"))
    stop.evaluations = 0
    with pytest.raises(Interrupted):
        train(create(recipe, folder / "cut"), stop)
    train(open_run(folder / "cut"))
    assert_same_run(folder / "whole", folder / "cut")


SPARSITIES = {
    "dense": {"name": "dense"},
    "selfish": {"name": "selfish", "density": 0.4, "prune_rate": 0.5},
    "rigl": {"name": "rigl", "density": 0.4},
    "snfs": {"name": "snfs", "density": 0.4},
    "gradient growth once an epoch": {"name": "dynamic", "density": 0.4, "grow": "gradient"},
}
OPTIMIZERS = {
    "snt_asgd": {"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1},
    "adam": {"name": "adam", "lr": 0.01},
    "momentum": {"name": "sgd", "lr": 0.5, "momentum": 0.9},
    "groups": {"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1, "groups": {"head.*": {"lr_scale": 0.1}}},
    "plateau": {"name": "adam", "lr": {"name": "plateau", "start": 0.3}, "groups": {"*_hh*": {"eps": 1e-6}}},
}


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(
    "stop", [StopAt(step=1), StopAt(step=20), StopAt(evaluation=1), StopAt(evaluation=10)]
)
def test_stopped_and_resumed_equals_undisturbed(tiny_recipe, tmp_path, sparsity, stop):
    recipe = tiny_recipe(sparsity=SPARSITIES[sparsity], checkpoint_seconds=1000)
    assert_resumes(recipe, tmp_path, stop)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_resumes(tiny_recipe, tmp_path, optimizer):
    recipe = tiny_recipe(optimizer=OPTIMIZERS[optimizer], checkpoint_seconds=1000)
    assert_resumes(recipe, tmp_path, StopAt(step=25))


def test_random_windows_resume(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    task = {**recipe.task, "random_windows": True, "alpha": 2.0, "beta": 1.0}
    recipe = tiny_recipe(task=task, checkpoint_seconds=1000)
    assert_resumes(recipe, tmp_path, StopAt(step=22))


def test_saving_often_does_not_change_the_run(tiny_recipe, tmp_path):
    train(create(tiny_recipe(checkpoint_seconds=0), tmp_path / "often"))
    train(create(tiny_recipe(checkpoint_seconds=1000), tmp_path / "rarely"))
    assert_same_run(tmp_path / "often", tmp_path / "rarely")


def test_resuming_a_finished_run_changes_nothing(tiny_recipe, tmp_path):
    scores = train(create(tiny_recipe(), tmp_path / "run"))
    before = history(tmp_path / "run")
    assert train(open_run(tmp_path / "run")) == scores
    assert history(tmp_path / "run") == before


def test_a_nan_loss_keeps_the_state_before_it(tiny_recipe, tmp_path, monkeypatch):
    run = create(tiny_recipe(checkpoint_seconds=1000), tmp_path / "run")
    honest = run.task.loss

    def loss(model, batch, state):
        nats, objective, state = honest(model, batch, state)
        return (nats * float("nan"), objective, state) if run.position.step == 5 else (nats, objective, state)

    monkeypatch.setattr(run.task, "loss", loss)
    with pytest.raises(InputError, match=r"the loss is nan .* at step 6"):
        train(run)
    assert open_run(tmp_path / "run").position.step == 5


def test_a_full_disk_loses_nothing_but_the_step_in_progress(tiny_recipe, tmp_path, monkeypatch):
    run = create(tiny_recipe(checkpoint_seconds=0), tmp_path / "run")
    save, ballast = run.save, tmp_path / "run" / ".ballast"

    def full_from_step_7(state):
        if run.position.step >= 7 and ballast.exists():
            raise OSError(28, os.strerror(28))
        save(state)

    monkeypatch.setattr(run, "save", full_from_step_7)
    with pytest.raises(InputError, match=r"No space left.*the state of step 7 is saved"):
        train(run)
    assert open_run(tmp_path / "run").position.step == 7
    assert not ballast.exists()


@pytest.mark.parametrize("event", ["step", "rewire", "epoch", "switch", "best"])
def test_a_disk_that_is_full_for_a_moment_leaves_the_run_exact(tiny_recipe, tmp_path, monkeypatch, event):
    recipe = tiny_recipe(checkpoint_seconds=0)
    train(create(recipe, tmp_path / "whole"))
    append, save_best, ballast = EventLog.append, Run.save_best, tmp_path / "cut" / ".ballast"

    def full_log(self, record):
        if record["event"] == event and ballast.exists():
            raise OSError(28, os.strerror(28))
        append(self, record)

    def full_best(self, scores):
        if event == "best" and ballast.exists():
            raise OSError(28, os.strerror(28))
        save_best(self, scores)

    monkeypatch.setattr(EventLog, "append", full_log)
    monkeypatch.setattr(Run, "save_best", full_best)
    with pytest.raises(InputError, match=r"No space left.* is saved"):
        train(create(recipe, tmp_path / "cut"))
    monkeypatch.undo()
    train(open_run(tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_another_vocabulary_or_other_data_are_refused(tiny_recipe, tmp_path):
    import shutil

    recipe = tiny_recipe()
    data = tmp_path / "data"
    shutil.copytree(recipe.task["corpus"]["path"], data)
    task = {**recipe.task, "corpus": {"name": "folder", "path": str(data)}}
    train(create(tiny_recipe(epochs=1, task=task), tmp_path / "run"))
    (data / "valid.txt").write_text((data / "test.txt").read_text())
    with pytest.raises(InputError, match="valid data are not those"):
        open_run(tmp_path / "run")


def test_a_swapped_vocabulary_is_refused(tiny_recipe, tmp_path):
    create(tiny_recipe(), tmp_path / "run")
    path = tmp_path / "run" / "vocabulary.txt"
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([second, first, *rest]))
    with pytest.raises(InputError, match="is not the vocabulary that the run was trained with"):
        open_run(tmp_path / "run")


def test_checkpoints_of_other_runs_are_refused(tiny_recipe, tmp_path):
    train(create(tiny_recipe(), tmp_path / "run"))
    train(create(tiny_recipe(sparsity={"name": "dense"}), tmp_path / "dense"))
    last = tmp_path / "run" / LAST
    last.write_bytes((tmp_path / "dense" / LAST).read_bytes())
    with pytest.raises(InputError, match="does not fit the run's recipe"):
        open_run(tmp_path / "run")
    last.write_bytes((tmp_path / "run" / BEST).read_bytes())
    with pytest.raises(InputError, match="is no full state"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("text", ["{", "[]", "null", "{}", '{"data": 3, "threads": 1}', "\xff"])
def test_a_damaged_environment_is_one_sentence(text, tiny_recipe, tmp_path):
    create(tiny_recipe(), tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"environment.json is missing or damaged"):
        open_run(tmp_path / "run")


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny_recipe, tmp_path):
    create(tiny_recipe(), tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        create(tiny_recipe(), tmp_path / "run")
    with pytest.raises(InputError, match="is no run"):
        open_run(tmp_path / "nothing")


def test_looking_at_a_run_does_not_touch_its_history(tiny_recipe, tmp_path):
    run = create(tiny_recipe(), tmp_path / "run")
    train(run)
    run.events.append({"event": "sample", "text": "written after the end"})
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    open_run(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_whose_recipe_was_edited_does_not_go_on(tiny_recipe, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(create(tiny_recipe(epochs=2), folder), StopAt(step=2))
    text = (folder / "recipe.yaml").read_text()
    saved = (folder / LAST).read_bytes(), (folder / "metrics.jsonl").read_bytes()
    (folder / "recipe.yaml").write_text(text.replace("epochs: 2", "epochs: 3"))
    with pytest.raises(InputError, match=r"recipe.yaml was changed .*epochs was 2 and is 3"):
        train(open_run(folder))
    assert ((folder / LAST).read_bytes(), (folder / "metrics.jsonl").read_bytes()) == saved
    (folder / "recipe.yaml").write_text(text + "\n# a remark of mine\n")
    train(open_run(folder))
    assert history(folder)[-1]["event"] == "test"


@pytest.mark.parametrize("setting", ["log_every=1", "checkpoint_seconds=0", "threads=1"])
def test_what_decides_nothing_may_be_edited(tiny_recipe, tmp_path, setting):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(create(tiny_recipe(epochs=2), folder), StopAt(step=2))
    changed = load_recipe(folder / "recipe.yaml").changed([setting])
    (folder / "recipe.yaml").write_text(changed.to_yaml())
    train(open_run(folder))
    assert history(folder)[-1]["event"] == "test"
