"""What is shown while a run trains, without a run."""

import io
import math

import pytest
from rich.console import Console

from sparsernn.report.progress import QUIET_SECONDS, LiveReporter, PlainReporter, event_line, make_reporter

POSITION = {
    "epoch": 1,
    "epochs": 2,
    "step": 1,
    "steps": 200,
    "loss": math.log(100),
    "lr": 20,
    "tokens_per_second": 12345.6,
    "seconds_left": 75,
}
EPOCH = {
    "event": "epoch",
    "epoch": 1,
    "step": 100,
    "train_loss": math.log(100),
    "valid": {"loss": math.log(80), "perplexity": 80.0, "bits": 6.3, "tokens": 10},
    "averaged": True,
    "best": True,
    "seconds": 61.0,
    "lr": 20,
}


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def text(of: Console) -> str:
    return of.file.getvalue()


def test_a_pipe_hears_of_a_step_every_half_minute_only():
    clock, out = Clock(), console()
    with PlainReporter(out, clock=clock) as reporter:
        reporter.started({"epochs": 2})
        for second in range(10 * QUIET_SECONDS):
            clock.now = second / 4
            reporter.step(POSITION)
            reporter.phase("valid", 0.5)
    lines = text(out).splitlines()
    assert len(lines) == 2
    assert lines[0] == "epoch 1/2  step 1/200  train 100.00 ppl  12,346 tokens/s  75 s left"


def test_an_epoch_is_one_line():
    out = console()
    with PlainReporter(out) as reporter:
        reporter.started({"epochs": 2})
        reporter.event(EPOCH)
    assert text(out) == "epoch 1/2  train   100.00 ppl  valid    80.00 ppl  61 s  averaged  best\n"


def test_bits_are_shown_where_the_task_counts_bits():
    assert "6.322 bits" in event_line(EPOCH, "bits", 2)


def test_records_for_the_report_alone_are_not_shown():
    assert event_line({"event": "step", "loss": 1.0}, "perplexity", 2) == ""


def test_the_bar_shows_speed_and_time_left_and_leaves_nothing_behind():
    out = console(terminal=True)
    with make_reporter(out, "perplexity") as reporter:
        assert isinstance(reporter, LiveReporter)
        reporter.started({"epochs": 2})
        reporter.step(POSITION)
        reporter.bars.refresh()
        shown = text(out)
        reporter.phase("valid", 0.5)
        reporter.event(EPOCH)
    assert "12,346 tokens/s" in shown
    assert "75 s left" in shown
    assert "valid    80.00 ppl" in text(out)


def test_the_plan_is_shown_when_the_run_starts():
    seen = []
    PlainReporter(console(), greet=seen.append).started({"epochs": 3})
    assert seen == [{"epochs": 3}]


def test_a_huge_loss_is_shown_all_the_same():
    assert "ppl" in event_line({**EPOCH, "train_loss": 1e6}, "perplexity", 2)


@pytest.mark.parametrize(
    "record", [{"event": "resume", "step": 7, "epoch": 2}, {"event": "switch", "epoch": 3}]
)
def test_turning_points_are_told(record):
    assert str(record["epoch"]) in event_line(record, "perplexity", 5)
