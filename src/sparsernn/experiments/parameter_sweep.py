"""Many runs of one recipe: a grid or a search, shared by as many workers as one starts.

The engine is optuna's storage, a database that all workers talk to; it says which settings are still to be tried.
Each trial is an ordinary run folder. A worker that dies is noticed by its missing heartbeat, and its run goes on from
its checkpoint in another one.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast, Count, Size
from sparsernn.core.plain import Json
from sparsernn.core.settings import assignments
from sparsernn.experiments.search_space import Space, spaces_of
from sparsernn.experiments.sweep_storage import (
    FOLDER,
    HEARTBEAT,
    SweepPlan,
    found,
    study_of,
    take_up_the_dead,
)
from sparsernn.experiments.sweep_worker import ERROR, Worker
from sparsernn.experiments.trained_run import TrainedRun
from sparsernn.report import Table, load_run
from sparsernn.report.story.seeds import comparable, seeds_tables
from sparsernn.report.story.tables import compare as compare_records
from sparsernn.runs.recipe import load_recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run_folders import fresh_folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Sweep:
    """A sweep that was started: its runs, their table, and the best of them.

    Args:
        url: of the storage, such as sqlite:///runs/sweep/sweep.db.

    Raises:
        InputError: no sweep there, or optuna is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.study, self.plan = study_of(url)

    def __repr__(self) -> str:
        return f"Sweep({self.url!r}: {len(self.runs)} runs)"

    @property
    def runs(self) -> list[TrainedRun]:
        """The runs so far, finished or not, in the order in which they were begun."""
        folders = sorted(path.parent for path in Path(self.plan.out).glob("trial-*/recipe.yaml"))
        return [TrainedRun(folder, self.plan.data) for folder in folders]

    @property
    def best(self) -> TrainedRun:
        """The finished run with the best validation score; of a search's setting with several seeds the first.

        Raises:
            InputError: none has ended yet.
        """
        done = self._trials("COMPLETE")
        if not done:
            raise InputError(f"no run of {self.url} has ended yet; there is no best one.")
        first = min(done, key=lambda trial: float("inf") if trial.value is None else trial.value)
        place = Path(first.user_attrs[FOLDER])
        several = sorted(place.parent.glob(f"{place.name}-seed-*"))
        return TrainedRun(several[0] if several else place, self.plan.data)

    @property
    def failures(self) -> dict[str, str]:
        """Folder -> the sentence with which a run ended, for those that failed."""
        failed = [trial for trial in self._trials("FAIL") if ERROR in trial.user_attrs]
        return {trial.user_attrs[FOLDER]: trial.user_attrs[ERROR] for trial in failed}

    def check_some(self) -> None:
        """Refuse a sweep of which every run failed.

        Raises:
            InputError: with what the first one said.
        """
        failed = self.failures
        if failed and not self._trials("COMPLETE", "PRUNED", "WAITING", "RUNNING"):
            raise InputError(f"every run of the sweep failed; the first one: {next(iter(failed.values()))}")

    @property
    def left(self) -> int:
        """How many settings have not ended: waiting, being run, or of a search still to be drawn."""
        trials = self._trials()
        begun = len({trial.user_attrs.get(FOLDER, trial.number) for trial in trials})
        return len(self._trials("WAITING", "RUNNING")) + max(0, (self.plan.trials or 0) - begun)

    @property
    def waits(self) -> bool:
        """Whether there is something that a worker could begin."""
        return self.left > len(self._trials("RUNNING"))

    @property
    def table(self) -> Table:
        """Mean and spread over seeds where there are several on one corpus, else one row for each run."""
        records = [load_run(run.folder) for run in self.runs]
        over_seeds = seeds_tables(records) if len(comparable(records)) == 1 else []
        return over_seeds[0] if over_seeds else compare_records([record.folder for record in records])

    def join(self, reporter: Reporter | None = None, patience: float = 1.0) -> int:
        """Work on the sweep until nothing is left of it; returns how many settings this worker ended.

        Args:
            reporter: who watches the runs.
            patience: seconds between two looks at what other workers are doing, once nothing waits.

        Raises:
            Interrupted: the worker was told to stop; its run is saved and waits for the next worker.
        """
        worker = Worker(self.plan, self.study, reporter or Reporter())
        while self.left:
            if self.waits:
                self.study.optimize(worker.run, n_trials=1, catch=(InputError,))
            else:
                take_up_the_dead(self.study)
                time.sleep(patience)
        return worker.ended

    @checked
    def run(self, workers: Count) -> None:
        """Work on the sweep in this many processes of this machine, to its end; 0 leaves it to those who join.

        Raises:
            InputError: fewer than 0.
        """
        if workers == 1:
            self.join()
            return
        threads = max(1, (os.cpu_count() or 1) // max(workers, 1))
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        command = [sys.executable, "-m", "sparsernn", "sweep", "--join", self.url]
        started = [subprocess.Popen(command, env=environment) for _ in range(workers)]
        for process in started:
            process.wait()

    def _trials(self, *states: str) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if not states or trial.state.name in states]

    def _repr_html_(self) -> str:
        """How a notebook shows the sweep."""
        return self.table._repr_html_()


def sweep(
    recipe: str | Path,
    space: Mapping[str, Json] | Sequence[str],
    overrides: Mapping[str, Json] | Sequence[str] = (),
    *,
    seeds: int = 1,
    trials: int | None = None,
    workers: int = 1,
    out: Path | str | None = None,
    data: Path | str | None = None,
    storage: str | None = None,
    prune: bool = False,
    heartbeat: int = HEARTBEAT,
) -> Sweep:
    """Run a recipe under many settings, in `workers` processes, to the end.

    Args:
        recipe: a name from `list_recipes()` or a YAML file.
        space: setting by dotted path -> a list of values to try; or, for a search, "uniform(0, 1)",
            "loguniform(1, 100)", "integer(1, 5)". Also written as assignments: ["optimizer.lr=[10, 20]"].
        overrides: settings that are changed in all runs.
        seeds: runs per setting, >= 1; their seeds are the recipe's and the numbers that follow it.
        trials: how many settings a search tries, >= 1; None: the whole grid.
        workers: processes on this machine. More may join from anywhere (`sparsernn sweep --join URL`); 0 leaves it
            all to them.
        out: folder of the runs; None: runs/NAME-sweep, with a number added while it is taken.
        data: the corpus' folder.
        storage: optuna's storage URL, or journal:///FILE, which is appended to; None: a SQLite file in `out`.
        prune: stop runs whose validation score is behind the median of earlier ones at the same epoch.
        heartbeat: seconds, >= 1; see `HEARTBEAT`.

    Returns:
        The sweep, finished unless `workers` is 0: `runs`, `table`, `best`, `failures`.

    Raises:
        InputError: an impossible setting, a grid with a range, optuna is not installed, or every run failed.

    Warns:
        UserWarning: some of the runs failed.
    """
    check_value("seeds", seeds, Size)
    check_value("trials", trials, Size | None)
    check_value("heartbeat", heartbeat, Annotated[float, AtLeast(1)])
    base = load_recipe(recipe, assignments(overrides) if isinstance(overrides, Mapping) else list(overrides))
    spaces = spaces_of(space)
    for setting, choice in spaces.items():  # a misspelt setting is told now, not by the first worker
        base.changed([f"{setting}={choice.example}"])
    numbers = [base.seed + k for k in range(seeds)]
    grid = _grid(spaces, numbers) if trials is None else []
    folder = (fresh_folder(f"{base.name}-sweep") if out is None else Path(out)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{folder / 'sweep.db'}"
    plan = SweepPlan(
        recipe=base.to_yaml(),
        space={setting: choice.text for setting, choice in spaces.items()},
        seeds=numbers,
        out=str(folder),
        trials=trials,
        data=None if data is None else str(Path(data).resolve()),
        prune=prune,
        heartbeat=heartbeat,
    )
    found(url, plan, grid)
    made = Sweep(url)
    made.run(workers)
    made.check_some()
    if failed := made.failures:
        warnings.warn(f"{len(failed)} runs of the sweep failed; `failures` says why.", stacklevel=2)
    return made


def _grid(spaces: Mapping[str, Space], seeds: Sequence[int]) -> list[dict[str, str]]:
    """Every combination of values, under every seed; the seeds of one setting follow each other."""
    for setting, choice in spaces.items():
        if not choice.choices:
            raise InputError(
                f"{setting} is {choice.text}, which only a search can draw from; say how many settings it may try "
                "(--trials N), or list the values: [1, 2, 5]."
            )
    names = [*spaces, "seed"]
    values = [*(choice.choices for choice in spaces.values()), tuple(map(str, seeds))]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]
