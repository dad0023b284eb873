"""The storage of a sweep as one file that workers append to, for file systems on which SQLite cannot lock.

Optuna's journal knows nothing of workers that die; here they give signs of life in it.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

BEAT = "sign of life"
Callback = Callable[[Study, FrozenTrial], None]


class BeatingJournal(JournalStorage, BaseHeartbeat):
    """Optuna's journal in a file, with signs of life.

    A trial is given up when nothing was heard of it for three intervals by the clock of whoever listens, so that
    clocks of several machines need not agree.

    Args:
        file: the journal.
        interval: seconds between two signs of life.
        given_up: what is done with a trial whose worker is silent.
    """

    def __init__(self, file: str, interval: int, given_up: Callback) -> None:
        super().__init__(JournalFileBackend(file))
        self.interval, self.given_up = interval, given_up
        self._heard: dict[int, tuple[object, float]] = {}

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; none where the trial has been given up meanwhile."""
        with suppress(UpdateFinishedTrialError):
            self.set_trial_system_attr(trial_id, BEAT, time.time())

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """What optuna asks for: the trials that are to be given up."""
        silent, now = [], time.monotonic()
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            number, beat = trial._trial_id, trial.system_attrs.get(BEAT)
            before, since = self._heard.get(number, (beat, now))
            if before != beat:
                since = now
            self._heard[number] = (beat, since)
            if now - since > 3 * self.interval:
                silent.append(number)
        return silent

    def get_heartbeat_interval(self) -> int:
        """See `interval`."""
        return self.interval

    def get_heartbeat_stale_trial_callback(self) -> Callback:
        """See `given_up`."""
        return self.given_up
