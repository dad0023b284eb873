"""What a training loop tells whoever watches it."""

from collections.abc import Callable

from sparsernn.contracts import Reporter
from sparsernn.core.plain import Json

__all__ = ["Audience", "Listener", "Reporter"]


class Listener(Reporter):
    """Hands every record of metrics.jsonl to a function.

    Args:
        callback: called with each record, a mapping with the keys "event", "epoch", "step" and more; None: nobody.
    """

    def __init__(self, callback: Callable[[dict[str, Json]], object] | None) -> None:
        self.callback = callback or (lambda record: None)

    def event(self, record: dict[str, Json]) -> None:
        """After each record of metrics.jsonl."""
        self.callback(record)


class Audience(Reporter):
    """Several reporters that are told the same, one after the other."""

    def __init__(self, *members: Reporter) -> None:
        self.members = members

    def started(self, plan: dict[str, Json]) -> None:
        """Before the first step."""
        for member in self.members:
            member.started(plan)

    def step(self, status: dict[str, Json]) -> None:
        """After each step."""
        for member in self.members:
            member.step(status)

    def event(self, record: dict[str, Json]) -> None:
        """After each record of metrics.jsonl."""
        for member in self.members:
            member.event(record)

    def phase(self, name: str, fraction: float) -> None:
        """During an evaluation."""
        for member in self.members:
            member.phase(name, fraction)
