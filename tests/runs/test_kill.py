"""kill -9 at random moments, then resume: the final weights are those of the undisturbed run, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from sparsernn.runs.checkpoint import load_checkpoint

MOMENTS = 10


def command(*words):
    return [sys.executable, "-m", "sparsernn", *map(str, words)]


@pytest.fixture(scope="module")
def recipe_file(tiny_corpus, tmp_path_factory):
    text = f"""
name: killed
epochs: 12
seed: 5
clip: 0.25
threads: 1
log_every: 5
checkpoint_seconds: 0.02
task:
  name: language_modelling
  corpus: {{name: folder, path: "{tiny_corpus}"}}
  batch_size: 4
  eval_batch_size: 2
  window: 9
model: {{name: language_model, embedding_size: 16, hidden_sizes: [24, 24], dropout: {{input: 0.2, output: 0.2}}}}
optimizer: {{name: snt_asgd, lr: 5, switch_epoch: 4}}
sparsity: {{name: selfish, density: 0.33, prune_rate: 0.5}}
"""
    path = tmp_path_factory.mktemp("recipe") / "killed.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    """The folder of a run that nobody disturbed, and the seconds that its training took."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    subprocess.run(command("train", recipe_file, "--out", folder), check=True, capture_output=True)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = [r["time"] for r in records if r["event"] != "sizes"]
    return folder, times[-1] - times[0]


def train_until(recipe_file, folder, seconds):
    """Start a run and kill it that many seconds after its first record."""
    process = subprocess.Popen(command("train", recipe_file, "--out", folder), stdout=-3, stderr=-3)
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, "the run ended before it began"
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    return process.wait()


def weights(folder, name):
    return load_checkpoint(folder / name)["model"]


def check(moment, recipe_file, undisturbed, tmp_path):
    reference, duration = undisturbed
    wait = random.Random(moment).uniform(0, 0.9 * duration)
    status = train_until(recipe_file, tmp_path / "run", wait)
    subprocess.run(command("resume", tmp_path / "run"), check=True, capture_output=True)
    for name in ("last.safetensors", "best.safetensors"):
        mine, theirs = weights(tmp_path / "run", name), weights(reference, name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    return status


def test_killed_once(recipe_file, undisturbed, tmp_path):
    assert check(0, recipe_file, undisturbed, tmp_path) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(1, MOMENTS + 1))
def test_killed_at_ten_random_moments(moment, recipe_file, undisturbed, tmp_path):
    assert check(moment, recipe_file, undisturbed, tmp_path) == -signal.SIGKILL
