"""Four processes, as torchrun starts them, train a recipe; one is killed, and what goes on is the undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import assert_same_run
from torch import distributed

import sparsernn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
]

RECIPE, RANKS = "selfish/lstm-ptb-small", 4
SMALL = ("task.window=10", "log_every=1", "checkpoint_seconds=0", "threads=1", "epochs=3")


WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "hears",
    "runs",
    "sleeps",
    "old",
    "young",
    "fast",
    "slow",
    "in",
    "on",
    "house",
    "garden",
]


def sentence(generator: random.Random) -> str:
    """Some words."""
    return " ".join(generator.choice(WORDS) for _ in range(generator.randint(4, 9)))


@pytest.fixture
def text(tmp_path):
    """About 20 windows for 20 streams."""
    generator = random.Random(0)
    for split, lines in (("train", 600), ("valid", 80), ("test", 80)):
        words = "\n".join(sentence(generator) for _ in range(lines)) + "\n"
        (tmp_path / f"{split}.txt").write_text(words, encoding="utf-8")
    return tmp_path


def begin(*words):
    """Start torchrun with the command line of ours."""
    place = str(Path(sparsernn.__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    return subprocess.Popen(
        [*command, "-m", "sparsernn", *map(str, words)],
        env={**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Its exit code and what it said."""
    said = process.communicate(timeout=600)[0]
    return process.returncode, said


def children(process):
    """The processes that torchrun has started, in the order in which it did."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = (map(int, row.split()) for row in rows.stdout.splitlines())
    return sorted(pid for pid, parent in pairs if parent == process.pid)


def lives(pid):
    """Whether there is still such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_steps(process, run, steps):
    """Until so many are logged."""
    log = run / "metrics.jsonl"
    while process.poll() is None:
        lines = log.read_text().splitlines() if log.exists() else []
        if sum('"event": "step"' in line or '"event":"step"' in line for line in lines) >= steps:
            return
        time.sleep(0.05)
    pytest.fail(process.communicate()[0])


def test_one_of_four_is_killed_and_the_run_goes_on_as_if_nothing_had_happened(text, tmp_path):
    corpus = f"task.corpus={{name: folder, path: {text}}}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, said = finish(begin("train", RECIPE, corpus, *SMALL, "--out", whole))
    assert code == 0, said
    process = begin("train", RECIPE, corpus, *SMALL, "--out", killed)
    wait_for_steps(process, killed, steps=25)
    ranks = children(process)
    assert len(ranks) == RANKS
    os.kill(ranks[-1], signal.SIGKILL)
    code, said = finish(process)
    assert code != 0, said
    assert not any(map(lives, ranks))
    code, said = finish(begin("resume", killed))
    assert code == 0, said
    assert_same_run(killed, whole)
    events = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [event["processes"] for event in events if event["event"] in ("start", "resume")] == [RANKS] * 2
    assert sum(event["event"] == "rewire" for event in events) >= 2
