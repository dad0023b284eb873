"""When a run is saved, and what happens when the disk is full."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from sparsernn.core.errors import InputError
from sparsernn.core.safe_files import PART, replacing, sole_user
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.divergence import have_exploded
from sparsernn.runs.run import BEST, LAST, Run, weights

BALLAST, VOUCHED = ".ballast", ".vouched.safetensors"


class Safekeeping:
    """Does all the writing of a run, with disk space put aside for the last save.

    A file as large as the checkpoints is kept as ballast. When a write fails because the disk is full, the ballast is
    given up and the write repeated, so the step or the epoch's end that is going on is completed; then the state is
    saved in the space that came free, and the run stops. Nothing is lost.

    Whether a saved state is any good only the next loss tells: weights explode in the step before the one that shows
    it. So the state before a save is kept beside it until a loss has vouched for the new one, across a kill, too.

    Inside it the folder belongs to this process.

    Raises:
        InputError: another process is at work in the folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ballast = run.home / BALLAST
        self.vouched = run.home / VOUCHED
        self.unsure = False
        self.saved_at = time.monotonic()
        self.trouble: OSError | None = None
        self._sole = ExitStack()

    def __enter__(self) -> "Safekeeping":
        self._sole.enter_context(sole_user(self.run.home))
        self.unsure = self.vouched.exists()
        for left in self.run.home.glob(f".*{PART}"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ballast.unlink(missing_ok=True)
        self._sole.close()
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

    @property
    def due(self) -> bool:
        """Whether `checkpoint_seconds` have passed since the last save, or there was trouble."""
        passed = time.monotonic() - self.saved_at >= self.run.recipe.checkpoint_seconds
        return passed or self.trouble is not None

    def save(self) -> None:
        """Write `last` and keep the ballast as large as the checkpoints.

        Raises:
            InputError: the disk is full; the state is saved.
        """
        state = self.run.state()
        if not self.unsure:
            self._keep_last()
        self.write(lambda: self.run.save(state))
        if self.trouble is None:
            self._reserve()
        if self.trouble is not None:
            raise self._stop(self.trouble, f"the state of step {self.run.position.step} is saved")
        self.saved_at = time.monotonic()

    def _keep_last(self) -> None:
        """A second name for `last`, which costs no space until it is replaced."""
        last = self.run.home / LAST
        if not last.exists():
            return
        try:
            os.link(last, self.vouched)
        except OSError:  # a file system without such names
            self.write(lambda: _copy(last, self.vouched))
        self.unsure = True

    def vouch(self) -> None:
        """A loss has shown that what is saved can be trained on."""
        if self.unsure:
            self.vouched.unlink(missing_ok=True)
            self.unsure = False

    def save_before(self) -> None:
        """After a divergence: save the state before the step that showed it, unless its weights are to blame.

        Then the newest state that a loss has vouched for becomes `last` again; also where the loss was read steps
        later, from an accelerator.
        """
        state = self.run.state()
        vouched = self.vouched if self.unsure else self.run.home / LAST
        before = load_checkpoint(vouched)["model"].values()
        present = self.run.device.type == "cpu" and not self.run.position.strayed
        if present and not have_exploded(weights(self.run.model).values(), before):
            self.write(lambda: self.run.save(state))
            self.vouch()
        elif self.unsure:
            os.replace(self.vouched, self.run.home / LAST)
            self.unsure = False

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


class Bystander(Safekeeping):
    """Of the processes that train together, all but the first: it gives its part of the state and writes nothing."""

    def __enter__(self) -> "Bystander":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def write(self, action: Callable[[], None]) -> None:
        """The first one does it."""

    @property
    def due(self) -> bool:
        """The first one says when."""
        return False

    def save(self) -> None:
        """Hand over this process' part."""
        self.run.state()

    def save_before(self) -> None:
        """Hand over this process' part, which the first one may need."""
        self.run.state()


def keeper(run: Run) -> Safekeeping:
    """Who does the writing of a run in this process."""
    return Safekeeping(run) if run.ranks.first else Bystander(run)


def _copy(source: Path, target: Path) -> None:
    """A copy that is there whole or not at all."""
    with replacing(target) as beside:
        shutil.copyfile(source, beside)
