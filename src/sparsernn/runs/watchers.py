"""Where a run can be watched besides: TensorBoard, Weights & Biases, MLflow.

metrics.jsonl is the truth, and they are shown what is written there. Each works in a thread of its own, which the
training never waits for before its end; one that fails or falls behind is left alone from then on, and a sentence
says so once. Nothing here touches the run.
"""

import importlib
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import ClassVar

from sparsernn.contracts import Reporter
from sparsernn.core.packages import check_installed
from sparsernn.core.plain import Json
from sparsernn.runs.run import Run

IDENTITY = "{}.id"
"""In a run's folder: under what name a service knows the run."""
LONGEST_QUEUE = 10_000
"""Records that may wait for a watcher: hours of training at one each second."""
PATIENCE = 60.0
"""Seconds that a watcher has for what is left when the training ends."""


class Watcher:
    """One place where figures are shown; used from one thread only, made by it as well.

    Attributes:
        library: the module that it needs.
    """

    library: ClassVar[str]

    def __init__(self, run: Run) -> None:
        """Begin to watch, or go on where the run stands."""

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """Numbers by name, after so many steps of the optimizer."""
        raise NotImplementedError

    def close(self, finished: bool) -> None:
        """The training is over, or stopped to go on later."""


class TensorBoard(Watcher):
    """Event files in RUN/tensorboard; what a resumed run is going to write again is marked as void."""

    library = "tensorboard"

    def __init__(self, run: Run) -> None:
        written = importlib.import_module("torch.utils.tensorboard")
        step = run.position.step
        self.writer = written.SummaryWriter(
            str(run.home / "tensorboard"), purge_step=step + 1 if step else None
        )
        if not step:
            self.writer.add_text("recipe", f"```\n{run.recipe.to_yaml()}```")

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """See `Watcher`."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self, finished: bool) -> None:
        """See `Watcher`."""
        self.writer.close()


class WeightsAndBiases(Watcher):
    """A run of wandb, which keeps it in RUN/wandb too; without a key of the service it stays offline there.

    The library's own variables (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY ...) hold; the project is "sparsernn" unless
    they say otherwise.
    """

    library = "wandb"

    def __init__(self, run: Run) -> None:
        wandb = importlib.import_module("wandb")
        settled = "WANDB_MODE" in os.environ or wandb.login(prompt=False)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sparsernn"),
            name=run.home.name,
            id=identity(run.home, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run.home),
            config=run.recipe.settings(),
            mode=None if settled else "offline",
            settings=wandb.Settings(console="off", silent=True),
        )
        # A step of its own: that of the library only grows, and a resumed run tells some steps again.
        self.run.define_metric("optimizer_step")
        self.run.define_metric("*", step_metric="optimizer_step")

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """See `Watcher`."""
        self.run.log({**figures, "optimizer_step": step})

    def close(self, finished: bool) -> None:
        """See `Watcher`."""
        self.run.finish(exit_code=0 if finished else 1)


class MLflow(Watcher):
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names or the library's own choice.

    The experiment is "sparsernn" unless MLFLOW_EXPERIMENT_NAME says otherwise.
    """

    library = "mlflow"

    def __init__(self, run: Run) -> None:
        mlflow = importlib.import_module("mlflow")
        self.client = mlflow.MlflowClient()
        self.id = identity(run.home, "mlflow", lambda: self._begin(run))
        self.client.update_run(self.id, status="RUNNING")

    def _begin(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sparsernn")
        known = self.client.get_experiment_by_name(name)
        home = known.experiment_id if known else self.client.create_experiment(name)
        made = self.client.create_run(home, run_name=run.home.name)
        for key, value in flat(run.recipe.settings(), "."):
            self.client.log_param(made.info.run_id, key, str(value)[:500])  # the least that any store takes
        return str(made.info.run_id)

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """See `Watcher`."""
        for name, value in figures.items():
            self.client.log_metric(self.id, re.sub(r"[^\w./ -]", "_", name), value, step=step)

    def close(self, finished: bool) -> None:
        """See `Watcher`."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


WATCHERS: dict[str, type[Watcher]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_watchers(names: Sequence[str]) -> None:
    """Before a run is made.

    Raises:
        InputError: the library of one of them is not installed.
    """
    for name in names:
        check_installed(f"log: {name}", WATCHERS[name].library, install=f"'sparsernn[{name}]'")


@contextmanager
def watchers(run: Run) -> Iterator[list[Reporter]]:
    """Those that the recipe's `log` names, watching until the block ends; the first of several processes has them."""
    names = run.recipe.log if run.ranks.first else []
    kept = [Apart(name, lambda kind=WATCHERS[name]: kind(run)) for name in names]  # type: ignore[misc]
    finished = False
    try:
        yield list(kept)
        finished = True
    finally:
        for one in kept:
            one.close(finished)


class Apart(Reporter):
    """Hands records to a watcher in another thread, and gives it up once it fails or falls behind.

    Args:
        name: of the watcher, as people know it.
        make: makes it; called in its thread.
        say: told why it was given up, at most once and in the thread of the training.
        patience: seconds that are waited for it at the end.
        longest: records that may wait for it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Watcher],
        say: Callable[[str], None] = lambda sentence: print(sentence, file=sys.stderr, flush=True),
        patience: float = PATIENCE,
        longest: int = LONGEST_QUEUE,
    ) -> None:
        self.name, self.make, self.say, self.patience = name, make, say, patience
        self.queue: Queue[dict[str, Json] | bool] = Queue(longest)
        self.fault = ""
        self.told = False
        self.thread = Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def event(self, record: dict[str, Json]) -> None:
        """After each record of metrics.jsonl."""
        self._put(record)

    def close(self, finished: bool) -> None:
        """Let it have what is left, for a while."""
        self._put(finished)
        if not self.fault:
            self.thread.join(self.patience)
            if self.thread.is_alive():
                self.fault = f"it was not done {self.patience:g} seconds after the training"
        self._complain()

    def _put(self, item: dict[str, Json] | bool) -> None:
        if not self.fault:
            try:
                self.queue.put_nowait(item)
            except Full:
                self.fault = f"it is {self.queue.maxsize:,} records behind"
        self._complain()

    def _complain(self) -> None:
        if self.fault and not self.told:
            self.told = True
            self.say(
                f"{self.name} no longer watches this run ({self.fault}); the run goes on, and its metrics.jsonl "
                "has all."
            )

    def _work(self) -> None:
        try:
            watcher = self.make()
            while isinstance(item := self.queue.get(), dict):
                figures = dict(numbers(item))
                if figures and not self.fault:
                    watcher.tell(figures, item["step"])
            watcher.close(item)
        except BaseException as error:  # a library that calls exit() must not take its thread's news along
            first = next(iter(str(error).splitlines()), "")[:200]
            self.fault = f"{type(error).__name__}{': ' * bool(first)}{first}"


def numbers(record: Mapping[str, Json]) -> Iterator[tuple[str, float]]:
    """The figures of a record, each under the record's kind and its own name.

    >>> dict(numbers({"event": "epoch", "epoch": 1, "step": 9, "valid": {"loss": 2}, "best": True, "lr": 0.5}))
    {'epoch/valid/loss': 2.0, 'epoch/lr': 0.5}
    """
    about = ("event", "epoch", "step", "time", "plan")
    shown = {key: value for key, value in record.items() if key not in about}
    for name, value in flat(shown, "/"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{record['event']}/{name}", float(value)


def flat(tree: Mapping[str, Json], joint: str) -> Iterator[tuple[str, Json]]:
    """The leaves of a tree of mappings, the names above each joined.

    >>> list(flat({"a": {"b": 1}, "c": 2}, "."))
    [('a.b', 1), ('c', 2)]
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{joint}{name}", leaf) for name, leaf in flat(value, joint))
        else:
            yield str(key), value


def identity(home: Path, name: str, make: Callable[[], str]) -> str:
    """Under what name a service knows a run: the one in its folder, or a new one, which is written there."""
    path = home / IDENTITY.format(name)
    if not path.exists():
        path.write_text(make(), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
