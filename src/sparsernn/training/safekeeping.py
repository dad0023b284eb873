"""When a run is saved, and what happens when the disk is full."""

import os
import time
from types import TracebackType
from typing import Any

from sparsernn.errors import InputError
from sparsernn.training.run import LAST, Run

BALLAST = ".ballast"


class Safekeeping:
    """Saves a run now and then, with disk space put aside for the last save.

    A file as large as a checkpoint is kept as ballast. When the disk turns out to be full it is given up, the state
    in memory is saved in its place, and the run stops: nothing but the step in progress is lost.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ballast = run.home / BALLAST
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Safekeeping":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ballast.unlink(missing_ok=True)
        if isinstance(error, OSError):
            self._last_resort(error)

    def now_and_then(self) -> None:
        """Save if `checkpoint_seconds` have passed since the last time."""
        if time.monotonic() - self.saved_at >= self.run.recipe.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write `last` and keep the ballast as large as it."""
        self.run.save()
        self._reserve((self.run.home / LAST).stat().st_size)
        self.saved_at = time.monotonic()

    def save_best(self, scores: dict[str, Any]) -> None:
        """Write `best`."""
        self.run.save_best(scores)

    def _reserve(self, size: int) -> None:
        with self.ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def _last_resort(self, error: OSError) -> None:
        where = self.run.home
        try:
            self.run.save()
        except OSError:
            raise InputError(
                f"cannot write to {where} ({error}); the last complete checkpoint there is intact, "
                f"so free some space and run: sparsernn resume {where}"
            ) from error
        step = self.run.position.step
        raise InputError(
            f"cannot write to {where} ({error}); the state of step {step} is saved in the space put aside, "
            f"so free some space and run: sparsernn resume {where}"
        ) from error
