"""Settings said once: what a parameter's annotation allows, in code and in words.

A signature is the only description of a component's settings:

    Literal["uniform", "erdos_renyi"]              words
    Annotated[str, OneOf(POOLINGS)]                the names of a table
    bool, int, float, str                          true or false, a whole number, a finite number, a string
    Annotated[float, Between(0, 1, open="high")]   a range; also `AtLeast(1)`, `Above(0)`
    Annotated[Sequence[Size], Entries(1)]          a list, and how many entries it has
    Mapping[str, Share]                            names of the user's own, each with a value
    a TypedDict                                    a group of named settings, checked one by one
    X | None                                       null as well

Whole numbers stand for finite ones; a truth value never stands for a number. An annotation that says something
else (an object, a callable, a name for type checkers only) leaves the value to whoever uses it. The pieces are in
limits.py, their meaning in forms.py.

`checked` makes a function or a class hold its callers to its signature; `registry.make` holds recipes to it.
Nothing here imports torch.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar, cast

from sparsernn.core.forms import ANYTHING, TRUTH, Form, form_of

Made = TypeVar("Made", bound=Callable[..., object])


def forms_of(made: Callable[..., object]) -> dict[str, Form]:
    """Parameter -> what it allows; what is not annotated is true or false if its default is.

    A class is described by its `__init__`, a partial by its function. Settings that it hands on as `**settings` are
    described by the classes that its attribute `settings_groups` names.
    """
    while isinstance(made, functools.partial):
        made = made.func
    found: dict[str, Form] = {}
    for group in getattr(made, "settings_groups", ()):
        found = forms_of(group) | found
    return found | _forms_of(inspect.unwrap(made.__init__ if inspect.isclass(made) else made))


@functools.cache
def _forms_of(function: Callable[..., object]) -> dict[str, Form]:
    written = getattr(function, "__annotations__", {})
    names = getattr(function, "__globals__", {})
    found = {name: form_of(_resolved(hint, names)) for name, hint in written.items() if name != "return"}
    return dict(_switches(function)) | {name: form for name, form in found.items() if form is not ANYTHING}


def _switches(function: Callable[..., object]) -> Iterator[tuple[str, Form]]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return
    for name, parameter in parameters.items():
        if isinstance(parameter.default, bool):
            yield name, TRUTH


def _resolved(hint: object, names: Mapping[str, object]) -> object:
    holder = types.SimpleNamespace(__annotations__={"it": hint})
    try:
        return typing.get_type_hints(holder, dict(names), include_extras=True)["it"]
    except (NameError, TypeError, AttributeError):  # written for a type checker only
        return object


def check_value(what: str, value: object, hint: object) -> None:
    """Refuse a value that an annotation does not allow.

    Args:
        what: the setting, for the message.
        value: as the user wrote it.
        hint: a type annotation; see the top of this file.

    Raises:
        InputError: one sentence with the value and what is allowed.

    Example:
        >>> check_value("update.last", "no", bool)
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: update.last is 'no'; it must be true or false.
    """
    form_of(hint).refuse(what, value)


def checked(made: Made) -> Made:
    """Hold every caller to the signature: a decorator for functions, `__init__` and dataclasses.

    Raises:
        InputError: from the call, for the first argument that its annotation does not allow.

    Example:
        >>> from sparsernn.core.limits import Density
        >>> @checked
        ... def half(density: Density) -> float:
        ...     return density / 2
        >>> half(2)
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: density is 2; it must be a finite number in (0, 1].
    """
    if isinstance(made, type):
        plain = vars(made)["__init__"]
        setattr(made, "__init__", checked(plain))  # noqa: B010  # on the class itself
        return made
    code = cast(types.FunctionType, made).__code__
    positional = code.co_varnames[: code.co_argcount]

    @functools.wraps(made)
    def call(*args: object, **kwargs: object) -> object:
        forms = _forms_of(made)
        for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
            forms.get(name, ANYTHING).refuse(name, value)
        return made(*args, **kwargs)

    return cast(Made, call)
