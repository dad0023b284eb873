"""One worker of a sweep: turns trials into run folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.settings import parse
from sparsernn.experiments.search_space import spaces_of
from sparsernn.experiments.sweep_storage import ASKED, FOLDER, SweepPlan, load_optuna, wait_again
from sparsernn.experiments.trained_run import complete
from sparsernn.report import RunRecord, load_run
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train as run_loop
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import Run

if TYPE_CHECKING:
    from optuna import Study, Trial

ERROR = "error"


class Worker:
    """Turns trials into run folders."""

    def __init__(self, plan: SweepPlan, study: Study, reporter: Reporter) -> None:
        self.plan, self.study, self.reporter = plan, study, reporter
        self.ended = 0

    def run(self, trial: Trial) -> float:
        """Train what a trial asks for; returns the mean of its best validation criteria, the less the better."""
        if self.plan.trials is None and ASKED not in trial.user_attrs:
            raise load_optuna().TrialPruned  # another worker was quicker: the grid has nothing left
        recipe = self._recipe(trial)
        folder = Path(trial.user_attrs.get(FOLDER) or Path(self.plan.out) / f"trial-{trial.number:04}")
        trial.set_user_attr(FOLDER, str(folder))
        watch = _Progress(trial, self.reporter, self.plan.prune)
        try:
            values = [self._one(changed, place, watch) for changed, place in self._runs(recipe, folder)]
        except Interrupted:
            wait_again(self.study, trial)
            raise
        except InputError as error:
            trial.set_user_attr(ERROR, str(error))
            raise
        self.ended += 1
        return sum(values) / len(values)

    def _recipe(self, trial: Trial) -> Recipe:
        base = Recipe.from_settings(parse(self.plan.recipe, "the recipe of the sweep"))
        spaces = spaces_of(self.plan.space)
        chosen = [f"{setting}={choice.draw(trial, setting)}" for setting, choice in spaces.items()]
        if self.plan.trials is None:
            chosen.append(f"seed={trial.suggest_categorical('seed', list(map(str, self.plan.seeds)))}")
        return base.changed([*chosen, f"name={base.name}"])

    def _runs(self, recipe: Recipe, folder: Path) -> Iterator[tuple[Recipe, Path]]:
        """A grid has a trial for every seed, a search one for all: its sampler is to hear of their mean."""
        if self.plan.trials is None:
            yield recipe, folder
            return
        for seed in self.plan.seeds:
            yield recipe.changed([f"seed={seed}"]), folder.with_name(f"{folder.name}-seed-{seed}")

    def _one(self, recipe: Recipe, folder: Path, watch: _Progress) -> float:
        data = None if self.plan.data is None else Path(self.plan.data)
        run = open_run(folder, data) if (folder / "recipe.yaml").exists() else create(recipe, folder, data)
        record = load_run(folder)
        watch.begin(run, record)
        if not record.is_complete:
            run_loop(run, watch)
            complete(run)
        return run.position.best


class _Progress(Reporter):
    """Tells optuna the validation criterion of each epoch, and everything to whoever watches."""

    def __init__(self, trial: Trial, reporter: Reporter, prune: bool) -> None:
        self.trial, self.reporter, self.prune = trial, reporter, prune
        self.run: Run | None = None

    def begin(self, run: Run, record: RunRecord) -> None:
        """Take up a run; what it went through before a worker died is told again."""
        self.run = run
        for event in record.of("epoch"):
            self._tell(event)

    def started(self, plan: dict[str, Json]) -> None:
        """Before the first step."""
        self.reporter.started(plan)

    def step(self, status: dict[str, Json]) -> None:
        """After each step."""
        self.reporter.step(status)

    def phase(self, name: str, fraction: float) -> None:
        """During an evaluation."""
        self.reporter.phase(name, fraction)

    def event(self, record: dict[str, Json]) -> None:
        """After each record; at an epoch's end the run may be found hopeless."""
        self.reporter.event(record)
        if record["event"] == "epoch":
            self._tell(record)
            if self.prune and self.trial.should_prune():
                raise load_optuna().TrialPruned

    def _tell(self, record: Mapping[str, Json]) -> None:
        assert self.run is not None
        with warnings.catch_warnings():  # of several seeds the first one's epochs are kept
            warnings.simplefilter("ignore")
            self.trial.report(self.run.task.criterion(record["valid"]), record["epoch"])
