"""The door for Python: train a recipe, open what it has come to, look at it in a notebook."""

import inspect
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
import torch
from rich.console import Console

import sparsernn as sr
from sparsernn.cli import generate as command
from sparsernn.core.errors import InputError
from sparsernn.core.settings import assignments
from sparsernn.experiments.trained_run import TrainedRun
from sparsernn.report import progress
from sparsernn.runs import artifacts
from sparsernn.runs.reporter import Reporter

SMALL = {
    "epochs": 2,
    "model": {"embedding_size": 8, "hidden_sizes": [8, 8]},
    "task.batch_size": 40,
    "log_every": 5,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    records = []
    run = sr.train(
        "demo/selfish",
        SMALL,
        out=tmp_path_factory.mktemp("runs") / "mine",
        callback=records.append,
        progress=False,
    )
    run.heard = records
    return run


def test_everything_of_a_run_is_at_hand(run):
    assert run.is_complete
    assert run.name == "demo/selfish"
    assert run.recipe["epochs"] == 2
    assert run.scores["perplexity"] > 1
    assert run.history["epoch"] == [1, 2]
    assert all(value > 1 for value in run.history["valid_perplexity"])
    assert len({len(column) for column in run.steps.values()}) == 1
    assert run.sparsifier.masks()
    assert not run.model.training
    assert run.evaluate("test")["loss"] == pytest.approx(run.scores["loss"])
    assert run.generate("the value of", tokens=5).startswith("the value of")
    assert run.report().read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_text_is_written_alike_at_every_door():
    """The command, the run at hand and the function below them draw with the same settings unless told otherwise."""
    doors = (TrainedRun.generate, artifacts.generate, command.generate)
    defaults = [{name: p.default for name, p in inspect.signature(door).parameters.items()} for door in doors]
    for name in ("prompt", "tokens", "temperature", "seed"):
        assert len({default[name] for default in defaults}) == 1, name


def test_the_callback_hears_every_record(run):
    kinds = [record["event"] for record in run.heard]
    assert kinds[0] == "start"
    assert kinds.count("epoch") == 2
    assert "test" in kinds


def test_a_run_opened_again_says_the_same(run):
    again = sr.load(str(run.folder))
    assert again.scores == run.scores
    assert again.history == run.history
    assert repr(again) == repr(run)
    assert again.resume().scores == run.scores


def test_overrides_are_a_mapping_or_assignments(run, tmp_path):
    given = [
        "epochs=2",
        "model.embedding_size=8",
        "model.hidden_sizes=[8, 8]",
        "task.batch_size=40",
        "log_every=5",
    ]
    other = sr.train("demo/selfish", given, out=tmp_path / "other", progress=False)
    assert other.scores == run.scores
    from_settings = sr.train(other.recipe, {"name": "mine"}, out=tmp_path / "third", progress=False)
    assert from_settings.name == "mine"
    assert from_settings.scores == run.scores


def test_a_stopped_run_is_resumed(run, tmp_path):
    import signal

    class Stop(Reporter):
        def step(self, status):
            if status["step"] == 7:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"saved in .*resume\(\) goes on"):
        sr.train("demo/selfish", SMALL, out=tmp_path / "stopped", callback=Stop(), progress=False)
    stopped = sr.load(tmp_path / "stopped")
    assert not stopped.is_complete
    assert stopped.scores == {}
    assert "0 epochs so far" in repr(stopped)
    assert stopped.resume(progress=False).scores == run.scores


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_runs_and_comparisons_show_themselves_in_a_notebook(run):
    for shown in (run, sr.compare([run, run.folder])):
        tags = _Tags()
        tags.feed(shown._repr_html_())
        assert not tags.open
        assert "table" in tags.seen


def test_no_word_of_a_run_becomes_markup():
    from sparsernn.report import Table

    text = Table(("<b>", "x"), (("<script>alert(1)</script>", "&"),), title="<i>")._repr_html_()
    assert "<script>" not in text
    assert "<i>" not in text
    assert "&amp;" in text


def test_progress_in_a_notebook_rewrites_one_output(monkeypatch):
    shown = []

    class Handle:
        def update(self, drawn):
            shown.append(drawn._repr_html_())

    def display(drawn, display_id):
        assert display_id is True
        shown.append(drawn._repr_html_())
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    reporter = progress.make_reporter(Console(), "perplexity")
    assert isinstance(reporter, progress.NotebookReporter)
    with reporter:
        reporter.started({"epochs": 1})
        reporter.step({"epoch": 1, "epochs": 1, "step": 3, "steps": 9, "loss": 1.0})
        reporter.event({"event": "switch", "epoch": 1})
    assert "step 3/9" in shown[0]
    assert "averaging of the weights begins" in shown[-1]
    assert "step 3/9" not in shown[-1]


def test_the_door_opens_without_anything_else():
    code = "import sparsernn as sr; sr.nn.LAYERS; sr.sparsify; sr.optim.OPTIMIZERS; sr.runtime; sr.export"
    environment = {"PYTHONPATH": str(Path(sr.__file__).parents[1]), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_stub_names_what_the_door_has():
    import ast

    tree = ast.parse(Path(sr.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(sr.__all__) - {"__version__"}


def test_settings_may_be_numbers_of_numpy_and_torch():
    given = {
        "epochs": numpy.int64(3),
        "optimizer.lr": numpy.float32(0.5),
        "clip": torch.tensor(0.25),
        "model.hidden_sizes": (numpy.int64(8), 8),
        "task.corpus.path": Path("some") / "where",
        "seeds": numpy.arange(2),
    }
    assert assignments(given) == [
        *("epochs=3", "optimizer.lr=0.5", "clip=0.25", "model.hidden_sizes=[8, 8]"),
        *(f"task.corpus.path={Path('some') / 'where'}", "seeds=[0, 1]"),
    ]
    with pytest.raises(InputError, match=r"epochs is <object .* no recipe can hold"):
        assignments({"epochs": object()})


def test_one_run_is_compared_too_and_none_is_refused(run):
    assert sr.compare(run).rows == sr.compare([run]).rows == sr.compare(str(run.folder)).rows
    with pytest.raises(InputError, match="there is no run to show"):
        sr.compare([])
