"""What the steps of a run come to, read when it costs nothing.

To read a number from an accelerator the program waits until all the work that it has sent there is done, and the
device then waits for the program. So a step's loss and gradient norm stay there until `log_every` steps are in, or
something is going to be saved. On a CPU they are read at once, before the weights move.
"""

import time

import torch
from torch import Tensor

from sparsernn.runs.divergence import check_step, strayed_for
from sparsernn.runs.run import Run
from sparsernn.runs.saving import Safekeeping
from sparsernn.runs.watch import Watch


class Ledger:
    """Judges every step of a run and hands its figures to whoever watches.

    Args:
        run: whose position is kept.
        watch: told of every step, in order.
        keep: told when a loss vouches for what was saved.
    """

    def __init__(self, run: Run, watch: Watch, keep: Safekeeping) -> None:
        self.run, self.watch, self.keep = run, watch, keep
        self.late = run.device.type != "cpu"
        self._figures: list[Tensor] = []
        self._done: list[tuple[int, float]] = []
        self._now = (0.0, 0.0)

    def hear(self, loss: Tensor, norm: Tensor) -> None:
        """A step's loss and gradient norm, before the weights move.

        Raises:
            Diverged: the run cannot go on; on an accelerator it is found when the figures are read.
        """
        if self.late:
            self._figures.append(torch.stack([loss.detach().float(), norm.detach().float()]))
            return
        self._now = loss.item(), norm.item()
        self._judge(*self._now, self.run.position.step + 1)

    def count(self, targets: int, seconds: float) -> None:
        """The step is done and in the run's position: it had so many targets and took so long."""
        if not self.late:
            self.watch.step(*self._now, targets, seconds)
            self.watch.tell(self._now[0])
            return
        self._done.append((targets, seconds))
        if self.run.position.step % self.run.recipe.log_every == 0:
            self.read()

    def read(self) -> None:
        """Wait for the figures that are out, judge them and pass them on.

        Raises:
            Diverged: one of these steps left every sensible range.
        """
        if not self._done:
            return
        started = time.perf_counter()
        rows = torch.stack(self._figures[: len(self._done)]).tolist()
        waited = (time.perf_counter() - started) / len(rows)
        first = self.run.position.step - len(rows)
        done, self._figures, self._done = self._done, self._figures[len(rows) :], []
        for number, ((loss, norm), (targets, seconds)) in enumerate(zip(rows, done, strict=True), 1):
            self._judge(loss, norm, first + number)
            self.watch.step(loss, norm, targets, seconds + waited)
        self.watch.tell(rows[-1][0])

    def _judge(self, loss: float, norm: float, step: int) -> None:
        """A loss in range vouches for the weights that made it; one out of range, for a while, ends the run."""
        here = self.run.position
        first = loss if here.first_loss is None else here.first_loss
        here.strayed = strayed_for(loss, first, here.strayed)
        check_step(loss, norm, first, here.strayed, step)
        here.first_loss = first
        if not here.strayed:
            self.keep.vouch()
