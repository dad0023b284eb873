"""What can be said about a recipe's top level without building anything."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

from sparsernn.core.device_names import ALLOWED, is_device_name
from sparsernn.core.errors import InputError
from sparsernn.core.metrics import METRICS
from sparsernn.core.plain import Json
from sparsernn.core.registry import suggest

COMPONENTS = ("task", "model", "optimizer", "sparsity", "boundary")
LOGS = ("tensorboard", "wandb", "mlflow")
REQUIRED = ("task", "model", "optimizer")
NUMBERS = {f"{split}_{name}": row for split in ("train", "valid", "test") for name, row in METRICS.items()}

Rule = tuple[Callable[[object], bool], str]


def check(settings: Mapping[str, Json], known: Sequence[str], origin: str) -> None:
    """Refuse unknown keys, missing components, and values of the wrong type or out of range.

    Args:
        settings: a resolved tree of settings.
        known: the keys that a recipe has.
        origin: the recipe's name or file, for the message.

    Raises:
        InputError: the first fault found, with what is accepted.
    """
    for key in settings:
        if key not in known:
            accepted = ", ".join(sorted([*known, "base"]))
            raise InputError(
                f"{origin} has an unknown setting '{key}'; known: {accepted}.{suggest(key, list(known))}"
            )
    if settings.get("name") is None:
        raise InputError(f"{origin} has no name, or null; it must be a word.")
    for key in REQUIRED:
        if settings.get(key) is None:
            raise InputError(f"{origin} has no {key}; it needs one of the form '{key}: {{name: ...}}'.")
    for key in COMPONENTS:
        _check_component(key, settings.get(key), origin)
    for key, (holds, wanted) in _RULES.items():
        value = settings.get(key)
        if value is not None and not holds(value):
            raise InputError(f"{origin}: {key} is {value!r}; it must be {wanted}.")
    for key in ("published", "obtained"):
        _check_numbers(key, settings.get(key) or {}, origin)


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


def _check_numbers(key: str, numbers: object, origin: str) -> None:
    if not isinstance(numbers, Mapping):
        raise InputError(
            f"{origin}: {key} is {numbers!r}; it must be a mapping with some of {', '.join(NUMBERS)}, note."
        )
    for name, value in numbers.items():
        if name != "note" and name not in NUMBERS:
            raise InputError(f"{origin}: {key} has no place for '{name}'; known: {', '.join(NUMBERS)}, note.")
        if name == "note":
            fits, wanted = isinstance(value, str), "a sentence"
        elif NUMBERS[name].scale == 1:
            fits, wanted = _is_number(value) and value > 0, "a number above 0"
        else:
            fits, wanted = _is_number(value) and 0 <= value <= 1, "a share between 0 and 1"
        if not fits:
            raise InputError(f"{origin}: {key}.{name} is {value!r}; it must be {wanted}.")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    # a whole number may be too large for a float to say whether it is finite
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_clip(value: object) -> bool:
    if isinstance(value, Mapping):
        return len(value) == 1 and all(k in ("norm", "value") and _is_clip(v) for k, v in value.items())
    return _is_number(value) and bool(value > 0)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_log(value: object) -> bool:
    names = [value] if isinstance(value, str) else value
    return _is_list_of_text(names) and set(names) <= set(LOGS) and len(set(names)) == len(names)  # type: ignore


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


_TEXT: Rule = (_is_text, "text")
MOST_STEPS, MOST_EPOCHS, MOST_THREADS, MOST_SECONDS = 10**12, 10**6, 4096, 10**9
"""Beyond what any machine does: a larger number is a slip, and some do not fit into torch's integers."""
_RULES: dict[str, Rule] = {
    "name": (lambda v: isinstance(v, str) and bool(v.strip()), "a word"),
    "about": _TEXT,
    "source": _TEXT,
    "command": _TEXT,
    # torch's generators take seeds of 64 bits
    "seed": (lambda v: _is_integer(v) and 0 <= v < 2**63, "a whole number, 0 or more and below 2**63"),
    "epochs": (
        lambda v: _is_integer(v) and 1 <= v <= MOST_EPOCHS,
        f"a whole number, 1 or more and at most {MOST_EPOCHS:,}",
    ),
    "clip": (
        _is_clip,
        "a number above 0, or null for no clipping, or one of {norm: number} and {value: number}",
    ),
    "clip_over": (lambda v: v in ("all", "existing"), "all or existing"),
    "log_every": (
        lambda v: _is_integer(v) and 1 <= v <= MOST_STEPS,
        f"a whole number, 1 or more and at most {MOST_STEPS:,}",
    ),
    "checkpoint_seconds": (
        lambda v: _is_number(v) and 0 <= v <= MOST_SECONDS,
        f"a number of seconds, 0 or more and at most {MOST_SECONDS:,}",
    ),
    "threads": (
        lambda v: _is_integer(v) and 1 <= v <= MOST_THREADS,
        f"a whole number, 1 or more and at most {MOST_THREADS:,}, or null for torch's own choice",
    ),
    "device": (is_device_name, ALLOWED),
    "deterministic": (lambda v: isinstance(v, bool), "true or false"),
    "log": (_is_log, f"some of {', '.join(LOGS)}, each once, such as [tensorboard]"),
    "overrides": (_is_list_of_text, "a list of key=value texts"),
}
