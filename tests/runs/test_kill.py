"""kill -9 at random moments of training, then resume: the run is the undisturbed one, to the bit.

Each run is a process of its own. All but one test fork them from a process that has torch loaded already, which takes
most of a short run's time otherwise.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from test_resume import flat, history

from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.run import BEST, LAST

KILLS = 17
"""Of each family when all are asked for: 102 together."""

EPOCHS = 5

MEMORY = {"name": "elementwise", "cell": "gru", "axis": "time", "hidden": 3, "noise": 0.5}
ADAM = {"name": "adam", "lr": 0.01}
LSTM = {"name": "language_model", "embedding_size": 16, "hidden_sizes": [24, 24]}
DROPOUT = {"dropout": {"input": 0.2, "output": 0.2}}
FAMILIES = {
    "selfish": {
        "model": LSTM | DROPOUT,
        "optimizer": {"name": "snt_asgd", "lr": 5, "switch_epoch": 2},
        "sparsity": {"name": "selfish", "density": 0.33, "prune_rate": 0.5},
    },
    "ordered neurons": {
        "model": LSTM | DROPOUT | {"layer": {"name": "onlstm", "chunk_size": 4}},
        "optimizer": ADAM,
        "sparsity": {"name": "snfs", "density": 0.4},
    },
    "blocks": {
        "model": LSTM
        | DROPOUT
        | {
            "hidden_sizes": [32, 16],
            "layer": {"name": "block_lstm", "reduce": [0.5, 0.5]},
            "embedding": {"name": "block", "blocks": 4, "density": 0.5},
            "tied": True,
        },
        "optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.9},
    },
    "synthetic gradients": {
        "model": LSTM | {"layer": {"name": "qrnn", "window": 2, "zoneout": 0.2}},
        "optimizer": {"name": "adam", "lr": {"name": "restarts", "start": 0.02, "base": 1}},
        "boundary": {"name": "alternating", "base": 1, "injection": "training", "synthesizer": MEMORY},
    },
    "structures": {
        "model": LSTM | DROPOUT,
        "optimizer": {"name": "sgd", "lr": 1.0},
        "sparsity": {"name": "iss", "strength": 0.01, "freeze_dead": True},
    },
    "non-normal": {
        "base": "nnrnn/copy-nnrnn",
        "task": {"delay": 12, "length": 4, "iterations": 30, "eval_sequences": 12},
        "model": {"hidden_sizes": [24]},
        "log_every": 5,
    },
}


class Command:
    """The command line as a process, by the command itself."""

    def __init__(self, *words):
        line = [sys.executable, "-m", "sparsernn", *map(str, words)]
        self._process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.kill, self.wait = self._process.kill, self._process.wait

    @property
    def running(self):
        return self._process.poll() is None


class Forked:
    """The same, forked."""

    def __init__(self, *words):
        self._process = FORKS.Process(target=run_command, args=(list(map(str, words)),))
        self._process.start()
        self.kill = self._process.kill

    @property
    def running(self):
        return self._process.is_alive()

    def wait(self):
        self._process.join()
        return self._process.exitcode


FORKS = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
FORKS.set_forkserver_preload(
    ["sparsernn.cli.app", "sparsernn.catalogue", "sparsernn.runs.loop", "sparsernn.report"]
)


def run_command(words):
    """What `python -m sparsernn` does, without a word; what went wrong is a file beside the run's folder."""
    from sparsernn.cli import main

    sys.argv = ["sparsernn", *words]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    try:
        main()
    except Exception:
        Path(words[-1] + ".fault").write_text(traceback.format_exc())
        raise


@dataclass
class Whole:
    """A run that nobody disturbed, its recipe, and the seconds between its first and its last record."""

    recipe: Path
    folder: Path
    seconds: float


def killed(process, folder, seconds):
    """Kill a process that many seconds after the run's first record; whether it was still at work."""
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.running, "the run ended before it began"
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    status = process.wait()
    assert status in (0, -signal.SIGKILL)
    return status == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(request, tiny_corpus, tmp_path_factory):
    """The undisturbed run of a family."""
    folder = tmp_path_factory.mktemp("runs")
    language = {
        "name": "language_modelling",
        "corpus": {"name": "folder", "path": str(tiny_corpus), "order": "up"},
        "batch_size": 4,
        "eval_batch_size": 2,
        "window": 9,
    }
    usual = {
        "name": "killed",
        "epochs": EPOCHS,
        "seed": 5,
        "threads": 1,
        "log_every": 5,
        "checkpoint_seconds": 0.02,
    }
    chosen = FAMILIES[request.param]
    more = {} if "base" in chosen else {"clip": 0.25, "task": language}
    recipe = folder / "killed.yaml"
    recipe.write_text(yaml.safe_dump({**usual, **more, **chosen}))
    assert Forked("train", recipe, "--out", folder / "whole").wait() == 0
    lines = (folder / "whole" / "metrics.jsonl").read_text().splitlines()
    times = [json.loads(line)["time"] for line in lines]
    return Whole(recipe, folder / "whole", times[-1] - times[0])


def saved(folder):
    """The steps that the last checkpoint has behind it and whether the run was over by then; None without one."""
    if not (folder / LAST).exists():
        return None
    position = load_checkpoint(folder / LAST)["position"]
    return position["step"], position["epoch"] == EPOCHS


def assert_same(mine, theirs):
    """Weights, masks, averages, generators, positions and records are alike; sizes come with a latency."""
    for name in (LAST, BEST):
        left, right = (dict(flat(load_checkpoint(folder / name))) for folder in (mine, theirs))
        assert left.keys() == right.keys()
        assert [key for key in left if str(left[key]) != str(right[key])] == []
    left, right = ([r for r in history(folder) if r["event"] != "sizes"] for folder in (mine, theirs))
    assert left == right


def kill_and_resume(whole, folder, draw, start=Forked):
    """Kill a run once, or every third time the resumed one too; "middle" where training went on from within it."""
    wait = draw.uniform(0, 0.9 * whole.seconds)
    while not killed(start("train", whole.recipe, "--out", folder), folder, wait):
        shutil.rmtree(folder)  # it was over: the machine has become faster meanwhile
        wait /= 2
    found = saved(folder)
    if draw.random() < 1 / 3:
        killed(start("resume", folder), folder, draw.uniform(0, 0.5 * whole.seconds))
    assert start("resume", folder).wait() == 0
    assert_same(folder, whole.folder)
    if found is None or found[0] == 0:
        return "beginning"
    return "end" if found[1] else "middle"


@pytest.mark.parametrize("whole", ["selfish"], indirect=True)
def test_killed_once(whole, tmp_path):
    halfway = replace(whole, seconds=whole.seconds / 2)
    assert kill_and_resume(halfway, tmp_path / "run", random.Random(3), Command) in ("beginning", "middle")


@pytest.mark.slow
@pytest.mark.parametrize("whole", FAMILIES, indirect=True)
def test_killed_at_random_moments(whole, tmp_path, request, capsys):
    draw = random.Random(request.node.name)
    found = Counter(kill_and_resume(whole, tmp_path / str(k), draw) for k in range(KILLS))
    with capsys.disabled():
        print(f"\n{request.node.callspec.params['whole']}: {KILLS} kills, resumed from the {dict(found)}")
    assert found["middle"] > 0
