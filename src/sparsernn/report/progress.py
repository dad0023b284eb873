"""What a person sees while a run trains: bars on a terminal, a few lines in a pipe.

All reporters offer what the training loop calls: `started(plan)`, `step(position)`, `event(record)` and
`phase(name, fraction)`. Use them as context managers.
"""

import html
import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.metrics import shown_loss
from sparsernn.core.plain import Json
from sparsernn.report.story.formats import duration, products
from sparsernn.runs.reporter import Reporter

QUIET_SECONDS = 30  # a pipe hears of the run about this often within an epoch

Record = Mapping[str, Json]


class PlainReporter(Reporter):
    """One line per epoch, and one about every half minute in between.

    Args:
        console: where to print.
        metric: the task's, a name from `metrics.METRICS`; '' takes it from the plan of the run.
        greet: prints the plan when the run starts.
        clock: seconds that only grow, for tests.
    """

    def __init__(
        self,
        console: Console,
        metric: str = "perplexity",
        greet: Callable[[Record], None] = lambda plan: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.metric, self.greet, self.clock = console, metric, greet, clock
        self.last_line = clock()
        self.epochs, self.counts = 0, "tokens"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def started(self, plan: Record) -> None:
        """The run begins or goes on."""
        self.greet(plan)
        self.epochs, self.counts = plan["epochs"], plan.get("counts", self.counts)
        self.metric = self.metric or plan["metric"]
        self.last_line = self.clock()

    def step(self, position: Record) -> None:
        """One optimizer step is done."""
        if self.clock() - self.last_line >= QUIET_SECONDS:
            self._say(progress_line(position, self.metric, self.counts))

    def event(self, record: Record) -> None:
        """A record was written to metrics.jsonl."""
        line = event_line(record, self.metric, self.epochs)
        if line:
            self._say(line)

    def phase(self, name: str, fraction: float) -> None:
        """An evaluation is under way; a pipe need not know."""

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.last_line = self.clock()


class LiveReporter(PlainReporter):
    """A bar with speed and time left; the lines of `PlainReporter` scroll above it."""

    def __enter__(self) -> Self:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self.bars = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
        self.bars.start()
        self.training = self.bars.add_task("", total=None, visible=False, facts="")
        self.evaluation: TaskID = self.bars.add_task("", total=1, visible=False, facts="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def step(self, position: Record) -> None:
        """Move the bar."""
        self.bars.update(
            self.training,
            description=f"epoch {position['epoch']}/{position['epochs']}",
            completed=position["step"],
            total=position["steps"],
            visible=True,
            facts=facts(position, self.metric, self.counts),
        )

    def phase(self, name: str, fraction: float) -> None:
        """Show the bar of an evaluation until it is complete."""
        self.bars.update(self.evaluation, description=name, completed=fraction, visible=fraction < 1)


class _Handle(Protocol):
    """What a notebook shows and can show anew."""

    def update(self, shown: object) -> None:
        """Put this in its place."""


class NotebookReporter(PlainReporter):
    """One line of a notebook's output that is rewritten as the run goes on; the lines of `PlainReporter` stay above.

    Args:
        show: shows a line of HTML and returns a handle whose `update` replaces it; IPython's `display` if not given.
    """

    def __init__(self, *given: Json, show: Callable[[str], _Handle] | None = None, **more: Json) -> None:
        super().__init__(*given, **more)
        self.show = show or _displayed
        self.handle: _Handle | None = None
        self.lines: list[str] = []
        self.moved = -math.inf

    def step(self, position: Record) -> None:
        """Rewrite the line, at most four times a second."""
        if self.clock() - self.moved >= 1 / 4:
            self._draw(progress_line(position, self.metric, self.counts))

    def phase(self, name: str, fraction: float) -> None:
        """Rewrite the line."""
        if self.clock() - self.moved >= 1 / 4:
            self._draw(f"{name} {fraction:.0%}")

    def _say(self, line: str) -> None:
        self.lines.append(line)
        self._draw("")

    def _draw(self, last: str) -> None:
        text = f"<pre>{html.escape(chr(10).join(filter(None, [*self.lines, last])))}</pre>"
        if self.handle is None:
            self.handle = self.show(text)
        else:
            self.handle.update(_Html(text))
        self.moved = self.clock()


class _Html:
    """Text that a notebook shows as HTML."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def _displayed(text: str) -> _Handle:
    from IPython.display import display

    handle: _Handle = display(_Html(text), display_id=True)
    return handle


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, where a terminal's bars cannot move."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def make_reporter(
    console: Console, metric: str, greet: Callable[[Record], None] = lambda plan: None
) -> PlainReporter:
    """The reporter that fits the console."""
    if in_notebook():
        return NotebookReporter(console, metric, greet)
    return (LiveReporter if console.is_terminal else PlainReporter)(console, metric, greet)


def progress_line(position: Record, metric: str, counts: str = "tokens") -> str:
    """Where a run stands, in one line."""
    place = f"epoch {position['epoch']}/{position['epochs']}  step {position['step']:,}/{position['steps']:,}"
    return f"{place}  {facts(position, metric, counts)}"


def facts(position: Record, metric: str, counts: str = "tokens") -> str:
    """Loss, speed and time left of a position."""
    parts = []
    if position.get("loss") is not None:
        parts.append(f"train {shown_loss(position['loss'], metric)}")
    if position.get("tokens_per_second"):
        parts.append(f"{position['tokens_per_second']:,.0f} {counts}/s")
    if position.get("seconds_left") is not None:
        parts.append(f"{duration(position['seconds_left'])} left")
    return "  ".join(parts)


def shown(scores: Record, metric: str) -> str:
    """A record's figure by the metric, from its loss where the figure follows from that."""
    row = row_of(metric)
    return shown_loss(scores["loss"], metric) if row.of_loss else row.shown(scores[metric])


def event_line(record: Record, metric: str, epochs: int) -> str:
    """A record of metrics.jsonl in one line; '' for those that are for the report alone."""
    writer = _LINES.get(record["event"])
    return writer(record, metric, epochs) if writer else ""


def _epoch(record: Record, metric: str, epochs: int) -> str:
    valid = shown(record["valid"], metric)
    marks = f"{'  averaged' if record.get('averaged') else ''}{'  best' if record.get('best') else ''}"
    head = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"
    train = f"train {shown_loss(record['train_loss'], metric):>12}"
    return f"{head}  {train}  valid {valid:>12}  {duration(record['seconds'])}{marks}"


def _switch(record: Record, metric: str, epochs: int) -> str:
    return f"epoch {record['epoch']}: averaging of the weights begins"


def _rewire(record: Record, metric: str, epochs: int) -> str:
    return (
        f"  masks moved: prune rate {record['prune_rate']:.3f}, density {record['density']:.4f}, "
        f"{record['exploration']:.1%} of the positions tried so far"
    )


def _products(record: Record, metric: str, epochs: int) -> str:
    return "\n".join(f"  products at the final density: {line}" for line in products(record["products"]))


def _units(record: Record, metric: str, epochs: int) -> str:
    counts = (f"{row['name']} {row['width'] - row['dead']}/{row['width']}" for row in record["layers"])
    return f"  units alive: {', '.join(counts)}"


def _zeros(record: Record, metric: str, epochs: int) -> str:
    return f"  {record['density']:.1%} of the penalised weights are not 0"


def _resume(record: Record, metric: str, epochs: int) -> str:
    return f"resumed at step {record['step']:,} in epoch {record['epoch']}"


def _test(record: Record, metric: str, epochs: int) -> str:
    result = f"{record['split']} {shown(record, metric)}"
    if "tokens" in record:
        result += f" over {record['tokens']:,} tokens"
    return f"{result}, averaged weights" if record.get("averaged") else result


def _end(record: Record, metric: str, epochs: int) -> str:
    return f"epoch {record['epoch']}: the training ends here, for {record['why']}"


_LINES: dict[str, Callable[[Record, str, int], str]] = {
    "epoch": _epoch,
    "switch": _switch,
    "rewire": _rewire,
    "products": _products,
    "units": _units,
    "zeros": _zeros,
    "resume": _resume,
    "test": _test,
    "end": _end,
}
