"""From plain data to objects: a component is `{name: ..., its constructor's arguments}`.

The constructor's signature is the schema, so there is no second description of the settings to keep in step,
and a typo is answered with the names that the constructor knows.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from sparsernn.core.checks import check_value as check_value
from sparsernn.core.checks import forms_of
from sparsernn.core.errors import InputError
from sparsernn.core.forms import ANYTHING, check_known, check_names
from sparsernn.core.forms import suggest as suggest
from sparsernn.core.plain import Json

Registry = Mapping[str, Callable[..., object]]
Made = TypeVar("Made")


def make(
    kind: str, registry: Mapping[str, Callable[..., Made]], spec: str | Mapping[str, Json], **context: object
) -> Made:
    """Build the component that `spec` describes.

    Args:
        kind: What is being built; it appears in error messages ("optimizer", "layer").
        registry: name -> class or function.
        spec: a name, or a mapping with the key `name` and the constructor's arguments.
        **context: what the program supplies (the model, the number of steps ...). A constructor takes from it
            what its signature names; the rest is dropped. It is never offered to users as a setting.

    Raises:
        InputError: unknown name, unknown argument, a required argument that is missing, or a value that is not
            allowed by its annotation (see core/checks.py) or that the constructor refuses.

    Example:
        >>> make("number", {"integer": lambda digits, base=10: int(digits, base)},
        ...      {"name": "integer", "digits": "ff", "base": 16})
        255
    """
    name, settings = _split(kind, spec)
    check_known(kind, name, sorted(registry))
    constructor = registry[name]
    parameters = inspect.signature(constructor).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = context if open_ended else {k: v for k, v in context.items() if k in parameters}
    _check(kind, str(name), parameters, settings, given, open_ended)
    forms = forms_of(constructor)
    for key, value in settings.items():
        forms.get(key, ANYTHING).refuse(f"{kind}.{key}", value)
    try:
        return constructor(**given, **settings)
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, RuntimeError, OverflowError) as error:  # met somewhere inside
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{kind} '{name}' cannot be built from {settings}: {reason}.") from error


def name_of(spec: object) -> str:
    """The name in a component's spec; "" where there is none.

    >>> name_of("lstm"), name_of({"name": "rhn", "depth": 2}), name_of(None)
    ('lstm', 'rhn', '')
    """
    return str((spec.get("name") if isinstance(spec, Mapping) else spec) or "")


def _split(kind: str, spec: str | Mapping[str, Json]) -> tuple[Json, dict[str, Json]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise InputError(f"{kind} is {spec!r}; it must be a name or a mapping with the key 'name'.")
    return spec["name"], {key: value for key, value in spec.items() if key != "name"}


def _check(
    kind: str,
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    settings: Mapping[str, Json],
    given: Mapping[str, object],
    open_ended: bool,
) -> None:
    offered = [
        p for p, v in parameters.items() if p not in given and v.kind not in (v.VAR_KEYWORD, v.VAR_POSITIONAL)
    ]
    check_names(
        f"{kind} '{name}'",
        [key for key in settings if key in given or (key not in parameters and not open_ended)],
        offered,
    )
    missing = [p for p in offered if parameters[p].default is inspect.Parameter.empty and p not in settings]
    if missing:
        raise InputError(f"{kind} '{name}' needs a value for {', '.join(repr(m) for m in missing)}.")
