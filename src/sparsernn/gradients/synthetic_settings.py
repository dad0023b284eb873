"""The settings of synthetic gradients, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from sparsernn.core.errors import InputError
from sparsernn.core.registry import check_value, suggest


@dataclass(frozen=True)
class Settings:
    """How a synthesizer is used and trained.

    Attributes:
        gamma: factor on the estimate where it enters the backward pass and the target, in [0, 1]. 1 estimates the
            gradient of all that follows, below 1 what lies k windows ahead counts gamma^k; published: 0.1.
        scale: unit of the targets: "tokens" (gradient of the summed loss of a window), "rms" (the gradient over its
            running root mean square) or "none" (of the mean loss, as published: tiny numbers).
        loss: mean or "sum" (published) of the squared errors over the numbers of the state.
        real_target: in epochs of the real gradient the target is "bootstrapped" as in the others, which costs a
            second pass for the state alone, or that of the "window" (published), which costs nothing.
        two_pass: train as if the backward pass had run twice, so that the estimate tends to half the target; what
            the published code does.
        injection: estimates that enter the backward pass are made in "inference" or (published) in "training" mode.
        advance: a synthesizer with a memory moves on "once" per boundary or (published) "twice".
        edges: also estimate after the last window of an epoch, where nothing follows, and learn from the first,
            which starts from nothing (published).
        learn: train the synthesizer; without, it stays what it is.
        lr, weight_decay: of its Adam.
        lr_end: what lr falls to in a straight line, epoch by epoch, in the last one; None: it stays, as published.
        synthesizer_from: a run's folder or its last checkpoint: a new run starts with the synthesizer that was
            trained there, and with its optimizer's averages; None: with one of its own.
        clip: largest norm of its gradient; None does not clip (published).
        faithful: everything that is marked "published" at once, gamma excepted; what is set beside it wins.

    Raises:
        InputError: a value out of range.
    """

    gamma: float = 1.0
    scale: str = "tokens"
    loss: str = "mean"
    real_target: str = "bootstrapped"
    two_pass: bool = False
    injection: str = "inference"
    advance: str = "once"
    edges: bool = False
    learn: bool = True
    lr: float = 1e-3
    lr_end: float | None = None
    synthesizer_from: str | None = None
    weight_decay: float = 0.0
    clip: float | None = 1.0
    faithful: bool = False

    def __post_init__(self) -> None:
        for name, accepted in CHOICES.items():
            if getattr(self, name) not in accepted:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(accepted)}.")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma!r}; it must lie in [0, 1].")
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr!r}; it must be above 0.")
        if self.lr_end is not None and not self.lr_end >= 0:
            raise InputError(
                f"lr_end is {self.lr_end!r}; it must be at least 0, or null to leave lr as it is."
            )
        if not isinstance(self.synthesizer_from, str | None):
            raise InputError(
                f"synthesizer_from is {self.synthesizer_from!r}; it must be a run's folder or one of its checkpoints."
            )
        if not self.weight_decay >= 0:
            raise InputError(f"weight_decay is {self.weight_decay!r}; it must be at least 0.")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip is {self.clip!r}; it must be above 0, or null for no clipping.")


CHOICES = {
    "scale": ("tokens", "rms", "none"),
    "loss": ("mean", "sum"),
    "real_target": ("bootstrapped", "window"),
    "injection": ("inference", "training"),
    "advance": ("once", "twice"),
}
PUBLISHED = {
    "scale": "none",
    "loss": "sum",
    "real_target": "window",
    "two_pass": True,
    "injection": "training",
    "advance": "twice",
    "edges": True,
    "clip": None,
}


def parse(given: Mapping[str, Any]) -> Settings:
    """Check what the user wrote and fill in the rest.

    Raises:
        InputError: an unknown name or a value that does not fit it.

    Example:
        >>> parse({"faithful": True, "clip": 2.0}).two_pass, parse({"gamma": 0.1}).two_pass
        (True, False)
    """
    names = [f.name for f in fields(Settings)]
    hints = get_type_hints(Settings)
    for name, value in given.items():
        if name not in names:
            accepted = f"synthesizer, switch_epochs, start, parts, {', '.join(names)}"
            raise InputError(
                f"boundary has no setting '{name}'; it accepts: {accepted}.{suggest(name, names)}"
            )
        check_value(f"boundary.{name}", value, hints[name])
    return Settings(**{**(PUBLISHED if given.get("faithful") else {}), **given})
