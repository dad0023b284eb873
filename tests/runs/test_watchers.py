"""Runs can be watched in other places, and whoever watches cannot harm them."""

import json
import sys
import threading
import tomllib
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest
import torch
from test_resume import StopAt, assert_same_run
from toy import register

from sparsernn.core.errors import InputError
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train
from sparsernn.runs.ranks import Ranks
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.validation import Log
from sparsernn.runs.watchers import WATCHERS, Apart, Watcher, numbers, watchers

SETTINGS = {
    "name": "watched",
    "epochs": 2,
    "log_every": 2,
    "checkpoint_seconds": 1000,
    "threads": 1,
    "task": {"name": "parity"},
    "model": {"name": "network"},
    "optimizer": {"name": "sgd", "lr": 0.1},
}


@pytest.fixture
def new(monkeypatch, tmp_path):
    """A function of a name and the `log` -> a new run of the toy task."""
    register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return lambda name, log=(): create(Recipe.from_settings({**SETTINGS, "log": list(log)}), tmp_path / name)


def module(monkeypatch, name, **content):
    """Put a module of that name in the place of what may be installed."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture
def notes(monkeypatch):
    """What three libraries are told, in place of the libraries."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    found = {name: SimpleNamespace(figures=[], begun=[], ended=[], threads=set()) for name in WATCHERS}

    class Writer:
        def __init__(self, folder, purge_step):
            found["tensorboard"].begun.append((Path(folder).name, purge_step))

        def add_text(self, name, text):
            assert "parity" in text

        def add_scalar(self, name, value, step):
            found["tensorboard"].figures.append((name, value, step))
            found["tensorboard"].threads.add(threading.current_thread().name)

        def close(self):
            found["tensorboard"].ended.append(True)

    class Logged:
        def __init__(self):
            self.axes = []

        def define_metric(self, name, step_metric=None):
            self.axes.append((name, step_metric))

        def log(self, figures):
            assert self.axes == [("optimizer_step", None), ("*", "optimizer_step")]
            step = figures.pop("optimizer_step")
            found["wandb"].figures += [(name, value, step) for name, value in figures.items()]

        def finish(self, exit_code):
            found["wandb"].ended.append(exit_code)

    class Client:
        def get_experiment_by_name(self, name):
            assert name == "sparsernn"

        def create_experiment(self, name):
            return "7"

        def create_run(self, experiment, run_name):
            found["mlflow"].begun.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def log_param(self, run, key, value):
            found["mlflow"].begun.append((key, value))

        def update_run(self, run, status):
            found["mlflow"].begun.append((run, status))

        def log_metric(self, run, name, value, step):
            found["mlflow"].figures.append((name, value, step))

        def set_terminated(self, run, status):
            found["mlflow"].ended.append((run, status))

    def init(**given):
        found["wandb"].begun.append(given)
        return Logged()

    module(monkeypatch, "tensorboard")
    module(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    module(monkeypatch, "wandb", init=init, login=lambda prompt: prompt, Settings=lambda **settings: settings)
    module(monkeypatch, "mlflow", MlflowClient=Client)
    return found


def records(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def figures(folder, kinds=("step", "epoch", "test")):
    """What metrics.jsonl has, as (name, value, step)."""
    return [
        (name, value, record["step"])
        for record in records(folder)
        for name, value in numbers(record)
        if record["event"] in kinds
    ]


@pytest.mark.parametrize("name", WATCHERS)
def test_every_figure_of_the_metrics_file_is_shown_and_nothing_else(new, notes, name):
    run = new("run", [name])
    train(run)
    told = notes[name].figures
    assert told == figures(run.home)
    assert {"step/loss", "epoch/valid/accuracy", "test/accuracy"} <= {figure for figure, _, _ in told}


def test_services_are_told_of_the_run_and_of_its_end(new, notes):
    run = new("run", WATCHERS)
    train(run)
    assert notes["tensorboard"].begun == [("tensorboard", None)]
    assert notes["tensorboard"].threads == {"tensorboard"}, "the training waits for nobody"
    [given] = notes["wandb"].begun
    assert (given["project"], given["name"], given["mode"]) == ("sparsernn", "run", "offline")
    assert given["id"] == (run.home / "wandb.id").read_text()
    assert given["config"]["task"] == {"name": "parity"}
    assert {("7", "run"), ("task.name", "parity"), ("r1", "RUNNING")} <= set(notes["mlflow"].begun)
    assert notes["tensorboard"].ended == [True]
    assert notes["wandb"].ended == [0]
    assert notes["mlflow"].ended == [("r1", "FINISHED")]


def test_a_resumed_run_is_the_same_one_to_those_who_watch(new, notes):
    run = new("run", WATCHERS)
    with pytest.raises(Interrupted):
        train(run, StopAt(step=5))
    assert notes["wandb"].ended == [1]
    assert notes["mlflow"].ended == [("r1", "KILLED")]
    train(open_run(run.home))
    assert notes["tensorboard"].begun == [("tensorboard", None), ("tensorboard", 6)]
    assert len({given["id"] for given in notes["wandb"].begun}) == 1
    assert [given["resume"] for given in notes["wandb"].begun] == ["allow", "allow"]
    assert [made for made in notes["mlflow"].begun if made[0] == "7"] == [("7", "run")]
    for name in WATCHERS:
        assert notes[name].figures == figures(run.home)


def test_a_watched_run_is_the_unwatched_one_to_the_bit(new, notes):
    plain, watched = new("plain"), new("watched", WATCHERS)
    for name in ("plain", "watched"):  # dropouts of the second begin where those of the first began
        torch.manual_seed(5)
        train({"plain": plain, "watched": watched}[name])
    assert_same_run(plain.home, watched.home)


class Broken(Watcher):
    """Fails where it is told to."""

    library = "json"
    fails = ""

    def __init__(self, run):
        self._do("open")

    def tell(self, figures, step):
        """See `Watcher`."""
        self._do("tell")

    def close(self, finished):
        """See `Watcher`."""
        self._do("close")

    def _do(self, what):
        if what == self.fails:
            raise OSError("no route\nto that host")
        if what == f"{self.fails}".removeprefix("exit "):
            sys.exit(3)


@pytest.mark.parametrize("where", ["open", "tell", "close", "exit open", "exit tell"])
def test_one_that_fails_is_announced_once_and_harms_nothing(new, monkeypatch, capsys, where):
    monkeypatch.setitem(WATCHERS, "mlflow", type("Failing", (Broken,), {"fails": where}))
    plain, watched = new("plain"), new("watched", ["mlflow"])
    for run in (plain, watched):
        torch.manual_seed(5)
        train(run)
    assert_same_run(plain.home, watched.home)
    why = "SystemExit: 3" if where.startswith("exit") else "OSError: no route"
    said = capsys.readouterr().err
    assert said == (
        f"mlflow no longer watches this run ({why}); the run goes on, and its metrics.jsonl has all.\n"
    )


@pytest.mark.parametrize(("longest", "why"), [(2, "2 records behind"), (99, "not done 0.05 seconds after")])
def test_nobody_waits_for_one_that_hangs(longest, why):
    stuck = threading.Event()

    class Hanging(Broken):
        def tell(self, figures, step):
            """As when a server takes the connection and says nothing."""
            stuck.wait(60)

    said = []
    apart = Apart("slow", lambda: Hanging(None), said.append, patience=0.05, longest=longest)
    for step in range(9):
        apart.event({"event": "step", "step": step, "loss": 1.0})
    apart.close(True)
    stuck.set()
    assert len(said) == 1
    assert why in said[0]


@pytest.mark.parametrize("name", WATCHERS)
def test_a_missing_library_is_one_sentence_before_anything_is_made(new, monkeypatch, name, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda library: None)
    with pytest.raises(InputError, match=rf"^log: {name} needs .*pip install 'sparsernn\[{name}\]'\.$"):
        new("run", [name])
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_where_the_library_is_missing(new, notes, monkeypatch, capsys):
    run = new("run", ["wandb"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(run)
    assert capsys.readouterr().err.count("wandb no longer watches this run (ModuleNotFoundError") == 1


def test_only_the_first_of_several_processes_is_watched(new, notes):
    run = new("run", ["wandb"])
    run.ranks = Ranks(1, 2)
    with watchers(run) as found:
        assert found == []


@pytest.mark.parametrize("log", ["comet", ["wandb", "wandb"], 3, [["wandb"]], {"wandb": True}])
def test_other_names_are_refused(log):
    with pytest.raises(InputError, match=r"log is .* must be (one of )?tensorboard, wandb"):
        Recipe.from_settings({**SETTINGS, "log": log})


def test_one_name_needs_no_brackets_and_watching_is_no_other_experiment():
    recipe = Recipe.from_settings({**SETTINGS, "log": "wandb", "published": {"test_perplexity": 71.7}})
    assert recipe.log == ["wandb"]
    assert recipe.changed(["log=[mlflow]"]).published == {"test_perplexity": 71.7}
    assert "log" not in Recipe.from_settings(SETTINGS).settings()


def test_each_has_an_extra_of_its_name():
    assert tuple(WATCHERS) == get_args(Log)
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, kind in WATCHERS.items():
        assert any(need.startswith(kind.library) for need in extras[name])


@pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed (extra tensorboard)"
)
def test_tensorboard_itself_reads_what_was_written(new):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = new("run", ["tensorboard"])
    with pytest.raises(Interrupted):
        train(run, StopAt(step=5))
    train(open_run(run.home))
    read = EventAccumulator(str(run.home / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    shown = {
        (name, event.value, event.step) for name in read.Tags()["scalars"] for event in read.Scalars(name)
    }
    kept = [(name, torch.tensor(value).item(), step) for name, value, step in figures(run.home)]
    assert len(kept) == sum(len(read.Scalars(name)) for name in read.Tags()["scalars"])
    assert shown == set(kept), "as float32, which is what it keeps"
