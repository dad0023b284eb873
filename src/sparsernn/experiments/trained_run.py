"""One experiment: train a recipe, open what the run has come to."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsernn.core.devices import CPU
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.settings import assignments
from sparsernn.report import Table, load_run, write_report
from sparsernn.report.console import output
from sparsernn.report.progress import make_reporter
from sparsernn.report.story.tables import compare as compare_records
from sparsernn.runs.artifacts import (
    answers_questions,
    generate,
    measure,
    measure_together,
    take_best,
    write_predictions,
    writes_text,
)
from sparsernn.runs.assembly import create, open_run, open_weights
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train as run_loop
from sparsernn.runs.recipe import Recipe, load_recipe
from sparsernn.runs.reporter import Audience, Listener, Reporter
from sparsernn.runs.run_folders import fresh_folder

if TYPE_CHECKING:
    from torch import nn

    from sparsernn.contracts import Sparsifier
    from sparsernn.runs.run import Run

SAMPLE_TOKENS = 60
"""Length of the text that a finished run keeps as its sample: three or four lines of a page."""

Overrides = Mapping[str, Json] | Iterable[str] | None
Callback = Reporter | Callable[[Mapping[str, Json]], object] | None


class TrainedRun:
    """A run folder with everything that it has come to. What takes time is read when it is first asked for.

    Args:
        folder: of a run, finished or not.
        data: where its data lie now; None: where they lay when it was created. Only `evaluate` and `resume`
            need them.
        device: where these two compute, "auto", "cpu", "cuda", "cuda:N" or "mps"; None: as the recipe says.

    Raises:
        InputError: no run folder.
    """

    def __init__(self, folder: Path | str, data: Path | str | None = None, device: str | None = None) -> None:
        self.folder, self.device = Path(folder), device
        self.data = None if data is None else Path(data)
        self._record = load_run(self.folder)
        self._opened: Run | None = None

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.folder)!r}: {self.name}, {self._said()})"

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self._record.name

    @property
    def recipe(self) -> Mapping[str, Json]:
        """The settings, as plain data."""
        return self._record.recipe

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do; otherwise `resume` goes on."""
        return self._record.is_complete

    @property
    def scores(self) -> dict[str, Json]:
        """The scores of the best weights on the test split; {} while training has not ended."""
        return _scores(self._record.last("test"))

    @property
    def history(self) -> dict[str, list[Json]]:
        """What was written after each epoch, as columns of equal length: `epoch`, `train_loss`, `valid_...`, `lr` ...

        `pandas.DataFrame(run.history)` makes a table of it. Where an epoch has no value, it is None.
        """
        return columns(self._record.of("epoch"))

    @property
    def steps(self) -> dict[str, list[Json]]:
        """The same for every `log_every` steps: `step`, `loss`, `grad_norm`, `lr`, `tokens_per_second` ..."""
        return columns(self._record.of("step"))

    @property
    def model(self) -> nn.Module:
        """The network with its best weights, in evaluation mode."""
        return self._best().model.eval()

    @property
    def sparsifier(self) -> Sparsifier:
        """What decided which weights exist, as it stood last: `masks()`, `summary()`."""
        return self._best().sparsifier

    def evaluate(self, split: str = "test", batch_size: int | None = None) -> dict[str, Json]:
        """The scores of the best weights on a split ("train", "valid" or "test"), read again.

        Raises:
            InputError: an unknown split, or data that are not where they were.
        """
        return evaluate_run(open_run(self.folder, self.data, self.device), split, batch_size)

    def generate(self, prompt: str = "", tokens: int = 100, temperature: float = 0.8, seed: int = 1) -> str:
        """Text from the best weights of a language model; see `sparsernn generate`."""
        return generate(self._best(), prompt, tokens, temperature, seed)

    def report(self, out: Path | str | None = None) -> Path:
        """Write report.html and report.md into the run's folder, or `out`; returns the page."""
        return write_report([self.folder], Path(out or self.folder))[0]

    def resume(self, callback: Callback = None, progress: bool = True) -> TrainedRun:
        """Go on where the run was stopped, to the bit; at once if it is complete.

        Raises:
            InputError: data that are not what they were, or a damaged checkpoint.
            KeyboardInterrupt: it was stopped again; the state is saved.
        """
        if not self.is_complete:
            train_and_complete(open_run(self.folder, self.data, self.device), callback, progress)
        return TrainedRun(self.folder, self.data, self.device)

    def _best(self) -> Run:
        if self._opened is None:
            opened = open_weights(self.folder)
            take_best(opened)
            self._opened = opened
        return self._opened

    def _said(self) -> str:
        if not self.scores:
            return f"{len(self._record.of('epoch'))} epochs so far"
        figures = ((name, value) for name, value in self.scores.items() if isinstance(value, float))
        return ", ".join(f"{name} {value:,.4g}" for name, value in figures)

    def _repr_html_(self) -> str:
        """How a notebook shows the run: its row of the table of results."""
        return f"<div><code>{html.escape(str(self.folder))}</code>{compare([self])._repr_html_()}</div>"


def train(
    recipe: str | Path | Recipe | Mapping[str, Json],
    overrides: Overrides = None,
    *,
    data: Path | str | None = None,
    out: Path | str | None = None,
    callback: Callback = None,
    progress: bool = True,
) -> TrainedRun:
    """Train a recipe to its end, as `sparsernn train` does, and leave a run folder.

    Args:
        recipe: a name from `list_recipes()`, a YAML file, a `Recipe`, or its settings as a mapping.
        overrides: settings to change by dotted path: {"epochs": 2, "optimizer.lr": 10.0}, or ["epochs=2"].
        data: the corpus' folder, where the recipe needs one.
        out: the run's folder; must not hold a run yet. None: runs/NAME, with a number added while it is taken.
        callback: called with every record of metrics.jsonl as it is written, or a `Reporter` that hears of steps too.
        progress: show a bar on a terminal or in a notebook, lines elsewhere.

    Returns:
        The finished run.

    Raises:
        InputError: a recipe, setting or folder that cannot be, missing data, or a loss that diverged.
        KeyboardInterrupt: it was stopped; the state is saved, and `load(out).resume()` goes on to the bit.

    Example:
        >>> import sparsernn as sr
        >>> run = sr.train("demo/selfish", {"epochs": 2}, out="runs/mine")   # doctest: +SKIP
        >>> run.history["valid_perplexity"]                                  # doctest: +SKIP
    """
    chosen = _recipe(recipe, overrides)
    folder = fresh_folder(chosen.name) if out is None else Path(out)
    run = create(chosen, folder, None if data is None else Path(data))
    train_and_complete(run, callback, progress)
    return TrainedRun(folder, data)


def load(folder: Path | str, data: Path | str | None = None, device: str | None = None) -> TrainedRun:
    """Open a run folder; see `TrainedRun`.

    Raises:
        InputError: no run folder.
    """
    return TrainedRun(folder, data, device)


def compare(runs: Iterable[TrainedRun | Path | str] | TrainedRun | Path | str) -> Table:
    """The results of several runs side by side; a notebook shows the table, `print(table.markdown())` writes it.

    Raises:
        InputError: there is none, or one is no run.
    """
    given = [runs] if isinstance(runs, TrainedRun | Path | str) else list(runs)
    if not given:
        raise InputError("there is no run to show; give runs, or their folders.")
    return compare_records([run.folder if isinstance(run, TrainedRun) else Path(run) for run in given])


def train_and_complete(run: Run, callback: Callback = None, progress: bool = True) -> None:
    """Train a run to its end with somebody watching, then `complete` it.

    Raises:
        KeyboardInterrupt: it was told to stop; the state is saved.
    """
    listener = callback if isinstance(callback, Reporter) else Listener(callback)
    try:
        if progress:
            with make_reporter(output(), run.task.metric) as reporter:
                run_loop(run, Audience(reporter, listener))
        else:
            run_loop(run, listener)
    except Interrupted as stop:
        raise KeyboardInterrupt(
            f"{stop}; saved in {run.home}: sparsernn.load({str(run.home)!r}).resume() goes on."
        ) from None
    complete(run)


def complete(run: Run, prompt: str = "") -> Path:
    """Measure the best weights of a trained run, let them write if they can, make its report; returns the page."""
    take_best(run)
    # The compiled kernels that are measured, and that write a token at a time, are for the CPU.
    resting = run
    if run.device != CPU:
        resting = open_weights(run.home)
        take_best(resting)
    run.events.append(measure(resting))
    if writes_text(run):
        text = generate(resting, prompt, SAMPLE_TOKENS)
        run.events.append({"event": "sample", "text": text, "prompt": prompt})
    if answers_questions(run):
        write_predictions(run)
    page = write_report([run.home], run.home)[0]
    run.events.append({"event": "complete"})
    return page


def time_together(folders: Sequence[Path]) -> None:
    """Measure the best weights of several finished runs again, in turns, and make their reports anew."""
    runs = [open_weights(folder) for folder in folders]
    for run in runs:
        take_best(run)
    for run, measured in zip(runs, measure_together(runs), strict=True):
        run.events.append(measured)
        write_report([run.home], run.home)


def columns(records: Sequence[Mapping[str, Json]]) -> dict[str, list[Json]]:
    """Records as columns of equal length, what is nested under joined names; None where a record has no value.

    >>> columns([{"epoch": 1, "valid": {"loss": 2.0}}, {"epoch": 2, "lr": 0.1}])
    {'epoch': [1, 2], 'valid_loss': [2.0, None], 'lr': [None, 0.1]}
    """
    flat = [_flat(record) for record in records]
    names = dict.fromkeys(name for record in flat for name in record if name != "event")
    return {name: [record.get(name) for record in flat] for name in names}


def _flat(tree: Mapping[str, Json], above: str = "") -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}{key}_") if isinstance(value, Mapping) else {above + key: value}
    return found


def _scores(record: Mapping[str, Json]) -> dict[str, Json]:
    about = ("event", "epoch", "step", "split", "averaged", "time")
    return {name: value for name, value in record.items() if name not in about}


def _recipe(recipe: str | Path | Recipe | Mapping[str, Json], overrides: Overrides) -> Recipe:
    changes = assignments(overrides) if isinstance(overrides, Mapping) else list(overrides or ())
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, changes)
    given = recipe if isinstance(recipe, Recipe) else Recipe.from_settings(dict(recipe))
    return given.changed(changes)
