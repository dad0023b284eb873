"""From plain data to objects: a component is `{name: ..., its constructor's arguments}`.

The constructor's signature is the schema, so there is no second description of the settings to keep in step,
and a typo is answered with the names that the constructor knows.
"""

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import Any

from sparsernn.core.errors import InputError

Registry = Mapping[str, Callable[..., Any]]

# The types that a setting is checked for, as messages call them.
_PLAIN: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    NoneType: "null",
}


def suggest(word: str, known: list[str]) -> str:
    """' Did you mean 'x'?' when `word` is close to one of `known`, else ''.

    >>> suggest("slefish", ["selfish", "rigl"])
    " Did you mean 'selfish'?"
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def make(kind: str, registry: Registry, spec: str | Mapping[str, Any], **context: Any) -> Any:
    """Build the component that `spec` describes.

    Args:
        kind: What is being built; it appears in error messages ("optimizer", "layer").
        registry: name -> class or function.
        spec: a name, or a mapping with the key `name` and the constructor's arguments.
        **context: what the program supplies (the model, the number of steps ...). A constructor takes from it
            what its signature names; the rest is dropped. It is never offered to users as a setting.

    Raises:
        InputError: unknown name, unknown argument, a required argument that is missing, or a value that is not
            of its annotation (see `check_value`) or that the constructor refuses.

    Example:
        >>> make("number", {"integer": lambda digits, base=10: int(digits, base)},
        ...      {"name": "integer", "digits": "ff", "base": 16})
        255
    """
    name, settings = _split(kind, spec)
    if name not in registry:
        known = sorted(registry)
        raise InputError(f"{kind} '{name}' is unknown; known: {', '.join(known)}.{suggest(str(name), known)}")
    constructor = registry[name]
    parameters = inspect.signature(constructor).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = context if open_ended else {k: v for k, v in context.items() if k in parameters}
    _check(kind, str(name), parameters, settings, given, open_ended)
    hints = _hints(constructor, parameters)
    for key, value in settings.items():
        check_value(f"{kind}.{key}", value, hints.get(key, Any))
    try:
        return constructor(**given, **settings)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # met somewhere inside
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{kind} '{name}' cannot be built from {settings}: {reason}.") from error


def check_value(what: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of the type `hint`, as far as that is a truth value or a number.

    A whole number also stands for a float; a truth value never stands for a number. Hints that allow words or
    mappings, or say nothing, are left to whoever uses the value.

    Args:
        what: the setting, for the message.
        value: as the user wrote it.
        hint: a type, or a union of types.

    Raises:
        InputError: another type, or a number that is not finite.

    Example:
        >>> check_value("update.last", "no", bool)
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: update.last is 'no'; it must be true or false.
    """
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    members = typing.get_args(hint) if union else (hint,)
    others = tuple(m for m in members if m not in _PLAIN)
    plain = [t for t in _PLAIN if t in members]
    if not plain or not all(isinstance(m, type) and m is not str for m in others):
        return
    if not isinstance(value, others) and not _fits(value, plain):
        wanted = " or ".join(_PLAIN[t] for t in plain)
        raise InputError(f"{what} is {value!r}; it must be {wanted}.")


def _fits(value: Any, plain: list[type]) -> bool:
    if value is None or isinstance(value, bool):
        return type(value) in plain
    if isinstance(value, int):
        return int in plain or float in plain
    return isinstance(value, float) and float in plain and math.isfinite(value)


def _hints(constructor: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Parameter -> type; what is not annotated has the type bool if its default is one."""
    while isinstance(constructor, partial):
        constructor = constructor.func
    try:
        hints = typing.get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    except (NameError, TypeError, AttributeError):  # written for a type checker only
        hints = {}
    switches = {name: bool for name, p in parameters.items() if isinstance(p.default, bool)}
    return {**switches, **hints}


def _split(kind: str, spec: str | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise InputError(f"{kind} is {spec!r}; it must be a name or a mapping with the key 'name'.")
    return spec["name"], {key: value for key, value in spec.items() if key != "name"}


def _check(
    kind: str,
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    open_ended: bool,
) -> None:
    offered = [
        p for p, v in parameters.items() if p not in given and v.kind not in (v.VAR_KEYWORD, v.VAR_POSITIONAL)
    ]
    for key in settings:
        if key in given or (key not in parameters and not open_ended):
            accepted = ", ".join(offered) or "no settings"
            raise InputError(
                f"{kind} '{name}' has no setting '{key}'; it accepts: {accepted}.{suggest(str(key), offered)}"
            )
    missing = [p for p in offered if parameters[p].default is inspect.Parameter.empty and p not in settings]
    if missing:
        raise InputError(f"{kind} '{name}' needs a value for {', '.join(repr(m) for m in missing)}.")
