"""When a run is saved, and what happens when the disk is full."""

import os
import time
from collections.abc import Callable
from types import TracebackType

from sparsernn.core.errors import InputError
from sparsernn.runs.run import BEST, LAST, Run

BALLAST = ".ballast"


class Safekeeping:
    """Does all the writing of a run, with disk space put aside for the last save.

    A file as large as the checkpoints is kept as ballast. When a write fails because the disk is full, the ballast is
    given up and the write repeated, so the step or the epoch's end that is going on is completed; then the state is
    saved in the space that came free, and the run stops. Nothing is lost.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ballast = run.home / BALLAST
        self.saved_at = time.monotonic()
        self.trouble: OSError | None = None

    def __enter__(self) -> "Safekeeping":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ballast.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._stop(error, "the last complete checkpoint there is intact") from error

    def write(self, action: Callable[[], None]) -> None:
        """Do something that writes; once, if it fails, in the space of the ballast."""
        try:
            action()
        except OSError as error:
            if self.trouble is not None:
                raise
            self.trouble = error
            self.ballast.unlink(missing_ok=True)
            action()

    def now_and_then(self) -> None:
        """Save if `checkpoint_seconds` have passed since the last time, or if there was trouble."""
        due = time.monotonic() - self.saved_at >= self.run.recipe.checkpoint_seconds
        if due or self.trouble is not None:
            self.save()

    def save(self) -> None:
        """Write `last` and keep the ballast as large as the checkpoints.

        Raises:
            InputError: the disk is full; the state is saved.
        """
        self.write(self.run.save)
        if self.trouble is None:
            self._reserve()
        if self.trouble is not None:
            raise self._stop(self.trouble, f"the state of step {self.run.position.step} is saved")
        self.saved_at = time.monotonic()

    def _reserve(self) -> None:
        files = [self.run.home / name for name in (LAST, BEST)]
        try:
            with self.ballast.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, sum(f.stat().st_size for f in files if f.exists()))
        except OSError as error:
            self.trouble = error

    def _stop(self, error: OSError, saved: str) -> InputError:
        where = self.run.home
        return InputError(
            f"cannot write to {where} ({error}); {saved}, so free some space and run: sparsernn resume {where}"
        )
