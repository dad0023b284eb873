"""What a training loop tells whoever watches it."""

from typing import Any


class Reporter:
    """The null member: watches in silence. The command line's progress bars implement the same methods."""

    def started(self, plan: dict[str, Any]) -> None:
        """Before the first step."""

    def step(self, status: dict[str, Any]) -> None:
        """After each step: epoch, epochs, step, steps, loss, lr, tokens_per_second, seconds_left."""

    def event(self, record: dict[str, Any]) -> None:
        """After each record of metrics.jsonl."""

    def phase(self, name: str, fraction: float) -> None:
        """During an evaluation: what is evaluated and the fraction done."""
