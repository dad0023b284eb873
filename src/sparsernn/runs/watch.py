"""What happens in the loop, as records of metrics.jsonl and as progress for whoever watches."""

from sparsernn.contracts import Optimizer, Tick
from sparsernn.core.plain import Json
from sparsernn.runs.interruption import Request, stop_at
from sparsernn.runs.plan import plan
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import Run
from sparsernn.runs.saving import Safekeeping


def learning_rate(optimizer: Optimizer) -> float:
    """What `set_learning_rate` was last given."""
    first = optimizer.param_groups[0]
    return float(first["lr"] / first.get("lr_scale", 1.0))


class Watch:
    """Turns what happens in the loop into records and progress."""

    def __init__(self, run: Run, reporter: Reporter, keep: Safekeeping) -> None:
        self.run, self.reporter, self.keep = run, reporter, keep
        self.steps_per_epoch = run.task.steps_per_epoch(run.recipe.seed)
        self.pace = self.speed = 0.0

    def start(self) -> None:
        """Say what is going to be done; a new run writes it down."""
        intent, count = plan(self.run), self.run.ranks.count
        together = {"processes": count} if count > 1 else {}
        self.reporter.started(intent)
        if self.run.events.knows("start"):
            self.record({"event": "resume", "device": intent["device"], **together})
        else:
            self.record({"event": "start", "recipe": self.run.recipe.name, "plan": intent, **together})
            self.look(closely=True, epoch=0)

    def record(self, event: dict[str, Json]) -> None:
        """Append to metrics.jsonl and tell the reporter."""
        here = self.run.position
        full = {"epoch": here.epoch + 1, "step": here.step, **event}
        self.keep.write(lambda: self.run.events.append(full))
        self.reporter.event(full)

    def look(self, closely: bool = False, **at: object) -> None:
        """What the weights look like now."""
        with self.run.sparsifier.lent():
            for found in self.run.task.look(self.run.model, closely):
                self.record({**at, **found})

    def step(self, loss: float, norm: float, tokens: int, seconds: float) -> None:
        """A step that is done: sums for the next record."""
        here = self.run.position
        recent = here.recent
        here.epoch_nats, here.epoch_tokens = here.epoch_nats + loss * tokens, here.epoch_tokens + tokens
        here.seconds += seconds
        recent["loss"], recent["norm"] = recent["loss"] + loss, recent["norm"] + norm
        recent["steps"] += 1
        self.pace = seconds if not self.pace else 0.95 * self.pace + 0.05 * seconds
        self.speed = tokens / self.pace

    def happened(self, events: list[dict[str, Json]]) -> None:
        """What the sparsifier did in the step that is under way; the step counts as done."""
        here = self.run.position
        for event in events:
            self.record({"step": here.step + 1, **event})

    def tell(self, loss: float) -> None:
        """After the newest of the steps: a record where one is due, and a progress report."""
        here, speed = self.run.position, self.speed
        if here.step % self.run.recipe.log_every == 0:
            self._log(speed)
        self.reporter.step(self._status(loss, speed))

    def _log(self, speed: float) -> None:
        recent = self.run.position.recent
        lr, steps = learning_rate(self.run.optimizer), recent["steps"]
        means = {"loss": recent["loss"] / steps, "grad_norm": recent["norm"] / steps}
        own = self.run.boundary.records()
        self.record({"event": "step", **means, **own, "lr": lr, "tokens_per_second": round(speed)})
        recent.update(loss=0.0, norm=0.0, steps=0)

    def _status(self, loss: float, speed: float) -> dict[str, Json]:
        here, epochs = self.run.position, self.run.recipe.epochs
        left = self.steps_per_epoch * (epochs - here.epoch) - here.window
        return {
            "epoch": here.epoch + 1,
            "epochs": epochs,
            "step": here.step,
            "steps": self.steps_per_epoch * epochs,
            "loss": loss,
            "lr": learning_rate(self.run.optimizer),
            "tokens_per_second": speed,
            "seconds_left": left * self.pace,
        }

    def epoch(self, scores: dict[str, float], better: bool) -> None:
        """After an epoch's evaluation."""
        here, optimizer = self.run.position, self.run.optimizer
        self.record(
            {
                "event": "epoch",
                "train_loss": here.epoch_nats / here.epoch_tokens,
                "valid": scores,
                "averaged": bool(optimizer.averaging),
                "best": better,
                "seconds": round(here.seconds, 1),
                "lr": learning_rate(optimizer),
            }
        )

    def phase(self, records: list[dict[str, Json]]) -> None:
        """What begins with an epoch; not again where the epoch goes on."""
        if self.run.position.window == 0:
            self.record_all(records)

    def record_all(self, events: list[dict[str, Json]]) -> None:
        """Each of these events, in order."""
        for event in events:
            self.record(event)

    def evaluating(self, split: str, request: Request) -> Tick:
        """A tick for `Task.evaluate` that reports and lets a stop request through."""

        def tick(fraction: float) -> None:
            self.reporter.phase(split, fraction)
            stop_at(self.run.ranks.agreed(False, request.signal_number)[1])

        return tick
