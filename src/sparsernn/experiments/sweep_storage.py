"""The storage of a sweep: one study in a database of optuna's, which all workers share."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY = "sweep"
HEARTBEAT = 20
"""Seconds between two signs of life of a worker; after three of them without one its trial is given to another."""
JOURNAL = "journal:///"
"""Before the file of a journal, in place of a database's URL."""
PLAN, FOLDER, ASKED = "plan", "folder", "asked"


@dataclass(frozen=True)
class SweepPlan:
    """What all workers of a sweep have in common; it lies in the storage.

    Attributes:
        recipe: the settings that all trials share, as YAML.
        space: setting -> choices or range, as it was written.
        seeds: of the runs of one setting.
        out: folder of the run folders.
        trials: how many settings a search tries; None: a grid, all of them.
        data: where the data lie.
        prune: stop runs that are behind the median of those before them.
        heartbeat: see `HEARTBEAT`.
    """

    recipe: str
    space: dict[str, str]
    seeds: list[int]
    out: str
    trials: int | None = None
    data: str | None = None
    prune: bool = False
    heartbeat: int = HEARTBEAT


def found(url: str, plan: SweepPlan, grid: list[dict[str, str]]) -> None:
    """Write a sweep into its storage, before any worker starts, with the whole grid waiting in it.

    Raises:
        InputError: there is one already, the storage cannot be opened, or optuna is not installed.
    """
    optuna = load_optuna()
    try:
        study = optuna.create_study(storage=_storage(url, plan.heartbeat), study_name=STUDY)
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f"{url} already holds a sweep; go on with it by 'sparsernn sweep --join {url}', or choose another folder."
        ) from None
    study.set_user_attr(PLAN, json.dumps(asdict(plan)))
    for chosen in grid:
        study.enqueue_trial(chosen, user_attrs={ASKED: True})


def study_of(url: str) -> tuple[Study, SweepPlan]:
    """The study that lies in a storage, and its plan.

    Raises:
        InputError: no sweep there, or optuna is not installed.
    """
    optuna = load_optuna()
    file = url.removeprefix("sqlite:///").removeprefix(JOURNAL)
    if file != url and not Path(file).is_file():  # SQLite would make one, and a journal begin
        raise InputError(
            f"{url} holds no sweep, there is no such file; 'sparsernn sweep RECIPE ...' starts one."
        )
    try:
        study = optuna.load_study(study_name=STUDY, storage=_storage(url))
    except KeyError:
        raise InputError(f"{url} holds no sweep; 'sparsernn sweep RECIPE ...' starts one.") from None
    plan = SweepPlan(**json.loads(study.user_attrs[PLAN]))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3) if plan.prune else optuna.pruners.NopPruner()
    storage = _storage(url, plan.heartbeat)
    return optuna.load_study(study_name=STUDY, storage=storage, pruner=pruner), plan


def wait_again(study: Study, trial: Trial | FrozenTrial) -> None:
    """Put a trial that did not end back, with its folder, for the next worker."""
    study.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, ASKED: True})


def take_up_the_dead(study: Study) -> None:
    """Put back the trials whose workers have given no sign of life for too long."""
    optuna = load_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def _storage(url: str, heartbeat: int = HEARTBEAT) -> BaseStorage:
    optuna = load_optuna()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if url.startswith(JOURNAL):
                from sparsernn.experiments.beating_journal import BeatingJournal

                return BeatingJournal(url.removeprefix(JOURNAL), heartbeat, wait_again)
            storage: BaseStorage = optuna.storages.RDBStorage(
                url,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=wait_again,
            )
    except Exception as error:  # whatever the database's driver raises
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the storage '{url}' cannot be opened ({reason}); it must be a database's URL: sqlite:///sweep.db, "
            "postgresql://..., mysql://..., or a file that is appended to, journal:////shared/sweep.journal."
        ) from error
    return storage


def load_optuna() -> ModuleType:
    """The library, quiet.

    Raises:
        InputError: it is not installed.
    """
    check_installed("a sweep", "optuna", install="'sparsernn[sweep]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a run that failed would be told with its traceback
    return optuna
