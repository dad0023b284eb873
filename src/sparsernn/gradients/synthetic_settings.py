"""The settings of synthetic gradients, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsernn.core.checks import checked, forms_of
from sparsernn.core.forms import ANYTHING, check_names
from sparsernn.core.limits import NonNegative, Positive, Share
from sparsernn.core.plain import Json


@checked
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

    gamma: Share = 1.0
    scale: Literal["tokens", "rms", "none"] = "tokens"
    loss: Literal["mean", "sum"] = "mean"
    real_target: Literal["bootstrapped", "window"] = "bootstrapped"
    two_pass: bool = False
    injection: Literal["inference", "training"] = "inference"
    advance: Literal["once", "twice"] = "once"
    edges: bool = False
    learn: bool = True
    lr: Positive = 1e-3
    lr_end: NonNegative | None = None
    synthesizer_from: str | None = None
    weight_decay: NonNegative = 0.0
    clip: Positive | None = 1.0
    faithful: bool = False


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


def parse(given: Mapping[str, Json]) -> Settings:
    """Check what the user wrote and fill in the rest.

    Raises:
        InputError: an unknown name or a value that does not fit it.

    Example:
        >>> parse({"faithful": True, "clip": 2.0}).two_pass, parse({"gamma": 0.1}).two_pass
        (True, False)
    """
    forms = forms_of(Settings)
    check_names("boundary", given, ["synthesizer", "switch_epochs", "start", "parts", *forms])
    for name, value in given.items():
        forms.get(name, ANYTHING).refuse(f"boundary.{name}", value)
    return Settings(**{**(PUBLISHED if given.get("faithful") else {}), **given})
