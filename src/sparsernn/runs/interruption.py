"""Ctrl-C, SIGTERM and the end of a terminal (SIGHUP): finish the step, save, stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handlers = dict[int, Callable[[int, FrameType | None], object] | int | None]


class Interrupted(Exception):
    """The run was asked to stop; its state is saved.

    Attributes:
        signal_number: SIGINT, SIGTERM or SIGHUP.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


@dataclass
class Request:
    """Whether somebody asked the run to stop."""

    signal_number: int = 0

    def check(self) -> None:
        """Raise Interrupted once a signal has come."""
        stop_at(self.signal_number)


def stop_at(signal_number: int) -> None:
    """Raise Interrupted unless the number is 0."""
    if signal_number:
        raise Interrupted(signal_number)


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Catch the stopping signals while a run is on; a second one acts at once, as if this were not here.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = Request()
    previous: Handlers = {}

    def remember(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        _restore(previous)

    try:
        for number in STOPPING:
            if (
                signal.getsignal(number) is not signal.SIG_IGN
            ):  # as under nohup: who ignores it wants to go on
                previous[number] = signal.signal(number, remember)
    except ValueError:
        previous.clear()
    try:
        yield request
    finally:
        _restore(previous)


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
