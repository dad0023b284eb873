"""Two processes in one folder, signals, file modes, and names that no two writers share."""

import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.safe_files import replacing, sole_user
from sparsernn.runs import saving
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.runs.interruption import STOPPING, Interrupted, stop_requests
from sparsernn.runs.loop import train
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import LAST

HOLDER = """
import sys, time, pathlib
from sparsernn.core.safe_files import sole_user
with sole_user(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has a folder to itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_ends_however_it_ends(holder, tmp_path):
    with pytest.raises(InputError, match="another process is at work in"), sole_user(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with sole_user(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


class Second(Reporter):
    """While a run trains, tries to train it a second time."""

    def __init__(self, folder):
        self.folder, self.refused = folder, 0

    def step(self, status):
        before = (self.folder / "metrics.jsonl").read_bytes(), (self.folder / LAST).read_bytes()
        with pytest.raises(InputError, match="another process"):
            train(open_run(self.folder))
        assert before == ((self.folder / "metrics.jsonl").read_bytes(), (self.folder / LAST).read_bytes())
        self.refused += 1


def test_a_run_is_trained_by_one_alone_and_the_other_changes_nothing(tiny_recipe, tmp_path):
    run = create(tiny_recipe(epochs=1, checkpoint_seconds=1000), tmp_path / "run")
    second = Second(tmp_path / "run")
    train(run, second)
    assert second.refused
    train(open_run(tmp_path / "run"))  # the first has ended


def test_a_folder_that_another_process_is_making_is_refused(tiny_recipe, holder, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="another process"):
        create(tiny_recipe(), tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_cannot_begin_leaves_no_folder(tiny_recipe, tmp_path):
    def begin(run):
        raise InputError("no")

    with pytest.raises(InputError):
        create(tiny_recipe(), tmp_path / "run", begin=begin)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def heard():
    """No stopping signal is ignored, as SIGHUP is for what `nohup` starts."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_stopping_signal_is_heard(name, heard):
    number = getattr(signal, name)
    with stop_requests() as request:
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=name):
            request.check()


def test_afterwards_signals_mean_what_they_meant(heard):
    """Whether one came or not; and once one has come, a second acts at once."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    with stop_requests():
        assert all(signal.getsignal(number) != old for number, old in before.items())
    assert {number: signal.getsignal(number) for number in STOPPING} == before
    with stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
        assert {number: signal.getsignal(number) for number in STOPPING} == before
    assert {number: signal.getsignal(number) for number in STOPPING} == before


def test_a_save_is_due_when_its_seconds_have_passed_or_a_write_has_failed(tiny_recipe, tmp_path, monkeypatch):
    clock = types.SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(saving, "time", clock)
    keep = saving.Safekeeping(create(tiny_recipe(checkpoint_seconds=60), tmp_path / "run"))
    seen = []
    for clock.now in (1000.0, 1059.5, 1060.0):
        seen.append(keep.due)
    keep.save()
    assert [*seen, keep.due] == [False, False, True, False]
    keep.trouble = OSError("no space left")
    assert keep.due


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            request.check()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_files_may_be_read_by_whom_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_checkpoint(tmp_path / LAST, {"a": torch.ones(2)})
        with replacing(tmp_path / "b") as beside:
            beside.write_text("b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in (LAST, "b")] == [mode, mode]


def test_writers_side_by_side_do_not_share_a_name(tmp_path):
    path = tmp_path / LAST

    def write(number):
        for _ in range(20):
            save_checkpoint(path, {"a": torch.full((50,), number)})

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    for _ in range(20):
        if path.exists():
            assert load_checkpoint(path)["a"].unique().numel() == 1
        time.sleep(0.001)
    [t.join() for t in threads]
    assert [p.name for p in tmp_path.iterdir()] == [LAST]


def test_what_a_killed_writer_left_is_cleared_away(tiny_recipe, tmp_path):
    run = create(tiny_recipe(epochs=1), tmp_path / "run")
    left = tmp_path / "run" / ".last.safetensors.123-abc.part"
    left.write_text("half")
    train(run)
    assert not left.exists()


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write():
        with replacing(path) as beside:
            beside.write_text("new")
            Path("/dev/full").write_text("no device takes this")

    with pytest.raises(OSError, match="No space"):
        write()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_in_the_place_of_a_file_is_named_as_it_was_given(tmp_path):
    with pytest.raises(IsADirectoryError) as caught, replacing(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)
