"""Many runs of one recipe: grid and search, several workers, one of them killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparsernn as sr
from sparsernn.core.errors import InputError
from sparsernn.experiments import Sweep
from sparsernn.experiments.search_space import parse_space, spaces_of
from sparsernn.experiments.sweep_storage import take_up_the_dead
from sparsernn.report.story.history import load_run
from sparsernn.report.story.seeds import Sample, differs, seeds_tables

pytest.importorskip("optuna")

TEXT = Path(__file__).parent / "runs" / "earlier_run" / "text"
SMALL = {
    "epochs": 2,
    "model": {"embedding_size": 8, "hidden_sizes": [8, 8]},
    "task.corpus": {"name": "folder", "path": str(TEXT)},
    "task.batch_size": 4,
    "task.window": 6,
    "threads": 1,
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sr.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def worker(url):
    command = [sys.executable, "-m", "sparsernn", "sweep", "--join", url]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_six_runs_by_two_workers_of_which_one_is_killed(storage, tmp_path):
    longer = {**SMALL, "epochs": 6, "checkpoint_seconds": 0}
    made = sr.sweep(
        "demo/selfish",
        {"sparsity.density": [0.1, 0.5]},
        longer,
        seeds=3,
        workers=0,
        out=tmp_path,
        heartbeat=1,
        storage=f"{storage}:///{tmp_path / 'all.trials'}",
    )
    assert made.left == 6
    victim = worker(made.url)
    while not any(tmp_path.glob("trial-*/best.safetensors")):  # it has trained for an epoch
        assert victim.poll() is None, victim.communicate()[0]
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    other = worker(made.url)
    told = other.communicate(timeout=240)[0]
    assert other.returncode == 0, told
    assert made.left == 0
    assert len(made.runs) == 6
    assert all(run.is_complete for run in made.runs)
    assert sum(bool(load_run(run.folder).of("resume")) for run in made.runs) == 1
    assert len(made.table.rows) == 2
    assert made.table.columns[0] == "sparsity.density"
    assert made.best.history["best"][-1] in (True, False)
    page = sr.compare(made.runs)
    assert len(page.rows) == 6
    from sparsernn.report import write_report

    report = write_report([run.folder for run in made.runs], tmp_path / "all")[1].read_text(encoding="utf-8")
    assert "Over seeds" in report
    assert "±" in report
    # a run of the sweep is the run that one would have trained alone
    alone = sr.train(made.runs[0].recipe, {"name": "alone"}, out=tmp_path / "alone", progress=False)
    assert alone.scores == made.runs[0].scores


def test_a_journal_is_a_storage(tmp_path):
    """Also for a worker that is silent, by whose clock whatever."""

    url = f"journal:///{tmp_path / 'sweep.journal'}"
    with pytest.raises(InputError, match="holds no sweep, there is no such file"):
        Sweep(url)
    made = sr.sweep(
        "demo/dense", {"optimizer.lr": [5, 10]}, {**SMALL, "epochs": 1}, out=tmp_path, storage=url
    )
    assert [run.is_complete for run in made.runs] == [True, True]
    with pytest.raises(InputError, match="already holds a sweep"):
        sr.sweep("demo/dense", {"optimizer.lr": [5]}, SMALL, out=tmp_path, storage=url)

    made = sr.sweep(
        "demo/dense",
        {"optimizer.lr": [5]},
        SMALL,
        workers=0,
        out=tmp_path / "other",
        storage=f"{url}2",
        heartbeat=1,
    )
    with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
        lost = made.study.ask()
    listener = Sweep(f"{url}2")
    storage = listener.study._storage
    made.study._storage.record_heartbeat(lost._trial_id)
    for seconds, states in ((0.0, ["RUNNING"]), (2.9, ["RUNNING"]), (3.1, ["FAIL", "WAITING"])):
        storage._heard = {number: (beat, then - seconds) for number, (beat, then) in storage._heard.items()}
        take_up_the_dead(listener.study)
        assert [trial.state.name for trial in listener.study.get_trials()] == states
        storage._heard = {number: (beat, then + seconds) for number, (beat, then) in storage._heard.items()}
    made.study._storage.record_heartbeat(lost._trial_id)  # it was only slow, and is told nothing
    assert made.left == 1


def test_a_search_draws_from_ranges_and_hears_the_mean_of_the_seeds(tmp_path):
    made = sr.sweep(
        "demo/selfish",
        ["optimizer.lr=loguniform(1, 20)", "sparsity.prune_rate=[.3, .7]"],
        SMALL,
        seeds=2,
        trials=2,
        out=tmp_path,
    )
    assert made.left == 0
    assert len(made.runs) == 4
    assert len({run.recipe["optimizer"]["lr"] for run in made.runs}) == 2
    assert all(1 <= run.recipe["optimizer"]["lr"] <= 20 for run in made.runs)
    assert {run.recipe["seed"] for run in made.runs} == {1111, 1112}
    assert made.best.is_complete


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path):
    with pytest.warns(UserWarning, match="1 runs of the sweep failed"):
        made = sr.sweep("demo/selfish", {"sparsity.density": [1.5, 0.5]}, SMALL, out=tmp_path)
    assert made.left == 0
    assert [run.recipe["sparsity"]["density"] for run in made.runs] == [0.5]
    ((_, sentence),) = made.failures.items()
    assert "1.5" in sentence


def test_a_sweep_of_which_every_run_fails_is_one_sentence(tmp_path):
    impossible = {"sparsity.density": [1.5, 2.5]}
    with pytest.raises(InputError, match=r"every run of the sweep failed; the first one: .*1\.5"):
        sr.sweep("demo/selfish", impossible, SMALL, out=tmp_path / "python")
    command = [sys.executable, "-m", "sparsernn", "sweep", "demo/selfish", "sparsity.density=[1.5, 2.5]"]
    told = subprocess.run(
        [*command, "--out", str(tmp_path / "command")], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert told.returncode == 2
    assert "every run of the sweep failed" in told.stderr
    assert "Traceback" not in told.stdout + told.stderr


def test_the_command_shows_the_table(tmp_path):
    command = [sys.executable, "-m", "sparsernn", "sweep", "demo/dense", "optimizer.lr=[5, 10]", "epochs=1"]
    small = [
        "model={embedding_size: 8, hidden_sizes: [8, 8]}",
        "task.batch_size=40",
        "--out",
        str(tmp_path / "s"),
    ]
    done = subprocess.run([*command, *small], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 to run" in done.stdout
    again = subprocess.run([*command, *small], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "already holds a sweep" in again.stderr
    assert len(Sweep(f"sqlite:///{tmp_path / 's' / 'sweep.db'}").runs) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "nothing to try"),
        (["optimizer.lr=10"], "takes a list"),
        (["optimizer.lr=[]"], "takes a list"),
        (["optimizer.lr"], "takes a list"),
        (["optimizer.lr=normal(0, 1)"], "must be uniform"),
        (["optimizer.lr=loguniform(0, 1)"], "low above 0"),
        (["optimizer.lr=uniform(2, 1)"], "low below high"),
        (["epochs=integer(1.5, 3)"], "integer"),
        (["optimizer.lr=uniform(a, b)"], "low below high"),
    ],
)
def test_an_impossible_space_is_one_sentence(given, said):
    with pytest.raises(InputError, match=said) as caught:
        spaces_of(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"trials": 0}, "trials is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"space": {"optimizer.lr": "uniform(1, 2)"}}, "only a search"),
        ({"space": {"optimiser.lr": [1]}}, "optimiser"),
        ({"storage": "nothing://x"}, "cannot be opened"),
    ],
)
def test_an_impossible_sweep_is_one_sentence(tmp_path, settings, said):
    settings = {"space": {"optimizer.lr": [1]}, "out": tmp_path / "s", **settings}
    with pytest.raises(InputError, match=said) as caught:
        sr.sweep("demo/dense", **settings)
    assert "\n" not in str(caught.value)


def test_a_list_of_lists_are_choices():
    assert parse_space("model.hidden_sizes", "[[8, 8], [16]]").choices == ("[8, 8]", "[16]")


def test_differences_within_the_spread_are_none():
    assert differs(Sample((1.0, 2.0)), Sample((1.5, 2.5))) is False
    assert differs(Sample((1.0, 1.1)), Sample((1.5, 1.6))) is True
    assert differs(Sample((1.0, 1.1)), Sample((1.5,))) is None


def test_runs_without_seeds_in_common_have_no_such_table():
    assert seeds_tables([]) == []
