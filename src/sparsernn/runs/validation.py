"""What can be said about a recipe's top level without building anything."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from sparsernn.core.device_names import DeviceName, PrecisionName
from sparsernn.core.errors import InputError
from sparsernn.core.forms import Group, check_names, form_of
from sparsernn.core.limits import Between, Distinct, Entries, Named, Positive, Share, Spelling
from sparsernn.core.metrics import METRICS
from sparsernn.core.plain import Json

COMPONENTS = ("task", "model", "optimizer", "sparsity", "boundary")
Log = Literal["tensorboard", "wandb", "mlflow"]
REQUIRED = ("task", "model", "optimizer")
NUMBERS = {f"{split}_{name}": row for split in ("train", "valid", "test") for name, row in METRICS.items()}


def check(settings: Mapping[str, Json], known: Sequence[str], origin: str) -> None:
    """Refuse unknown keys, missing components, and values of the wrong type or out of range.

    Args:
        settings: a resolved tree of settings.
        known: the keys that a recipe has.
        origin: the recipe's name or file, for the message.

    Raises:
        InputError: the first fault found, with what is accepted.
    """
    check_names(origin, settings, known)
    if settings.get("name") is None:
        raise InputError(f"{origin} has no name, or null; it must be a word.")
    for key in REQUIRED:
        if settings.get(key) is None:
            raise InputError(f"{origin} has no {key}; it needs one of the form '{key}: {{name: ...}}'.")
    for key in COMPONENTS:
        _check_component(key, settings.get(key), origin)
    for key, allowed in VALUES.items():
        if settings.get(key) is not None:
            allowed.refuse(f"{origin}: {key}", settings[key])


def _check_component(key: str, spec: object, origin: str) -> None:
    if spec is None:
        return
    if not isinstance(spec, Mapping):
        raise InputError(f"{origin}: {key} is {spec!r}; it must be a name or a mapping with the key 'name'.")
    if not isinstance(spec.get("name"), str):
        raise InputError(
            f"{origin}: {key} needs 'name', a word that says which one; it is {spec.get('name')!r}."
        )
    odd = [k for k in spec if not isinstance(k, str)]
    if odd:
        raise InputError(f"{origin}: {key} has the setting {odd[0]!r}; the names of settings are words.")


MOST_STEPS, MOST_EPOCHS, MOST_THREADS, MOST_SECONDS = 10**12, 10**6, 4096, 10**9
"""Beyond what any machine does: a larger number is a slip, and some do not fit into torch's integers."""
FIGURES = Group(
    {"note": form_of(str)}
    | {name: form_of(Positive if row.scale == 1 else Share) for name, row in NUMBERS.items()}
)
"""Results, each under the name of its split and metric."""
_ANNOTATIONS: dict[str, object] = {
    "name": Annotated[str, Spelling(r"(?s).*\S.*", "a word")],
    "about": str,
    "source": str,
    "command": str,
    "seed": Annotated[int, Between(0, 2**63, open="high")],  # torch's generators take seeds of 64 bits
    "epochs": Annotated[int, Between(1, MOST_EPOCHS)],
    "clip": Positive | Annotated[Mapping[str, Positive], Entries(1, 1), Named(("norm", "value"))],
    "log_every": Annotated[int, Between(1, MOST_STEPS)],
    "checkpoint_seconds": Annotated[float, Between(0, MOST_SECONDS)],
    "threads": Annotated[int, Between(1, MOST_THREADS)],
    "device": DeviceName,
    "precision": PrecisionName,
    "deterministic": bool,
    "cuda_graphs": bool,
    "clip_over": Literal["all", "existing"],
    "log": Log | Annotated[Sequence[Log], Distinct()],
    "overrides": Sequence[str],
}
VALUES = {key: form_of(hint) for key, hint in _ANNOTATIONS.items()} | dict.fromkeys(
    ("published", "obtained"), FIGURES
)
"""What stands beside the components, each of which may also be missing or null."""
