"""The settings of a component, read off its signature and its docstring, for tables of them."""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from typing import NamedTuple

from sparsernn.core.checks import forms_of
from sparsernn.core.forms import ANYTHING, Form

REQUIRED = inspect.Parameter.empty


class Setting(NamedTuple):
    """One setting of a component."""

    name: str
    form: Form
    default: object
    """`REQUIRED` where there is none."""
    meaning: str
    """Its first sentence in the docstring; '' where that says nothing."""

    @property
    def shown_default(self) -> str:
        """The default as a recipe writes it."""
        if self.default is REQUIRED:
            return "(required)"
        words = {None: "null", True: "true", False: "false"}
        return (
            words[self.default]
            if self.default is None or isinstance(self.default, bool)
            else str(self.default)
        )


def settings_of(made: Callable[..., object], supplied: Container[str] = ()) -> list[Setting]:
    """What a recipe may set, in the order of the signature.

    Args:
        made: a class or a function. Settings that it hands on as `**settings` are those of the dataclasses that its
            attribute `settings_groups` names.
        supplied: what the program gives; it is left out.

    Example:
        >>> def spiral(*, turns: int = 3): "Turns.\\n\\n    Args:\\n        turns: how often; more is rounder."
        >>> [(s.name, str(s.form), s.shown_default, s.meaning) for s in settings_of(spiral)]
        [('turns', 'a whole number', '3', 'how often; more is rounder')]
    """
    found: dict[str, Setting] = {}
    for setting in (setting for part in _parts(made) for setting in _own(part)):
        if (
            setting.name not in found or found[setting.name].default is None
        ):  # which may only spell the name out
            found[setting.name] = setting
    return [setting for name, setting in found.items() if name not in supplied]


def _parts(made: Callable[..., object]) -> Iterator[Callable[..., object]]:
    yield made
    yield from getattr(made, "settings_groups", ())


def _own(made: Callable[..., object]) -> Iterator[Setting]:
    forms, meanings = forms_of(made), meanings_of(made)
    for name, parameter in inspect.signature(made).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            made_anew = repr(parameter.default) == "<factory>"  # of a dataclass: an empty mapping or list
            default = {} if made_anew else parameter.default
            yield Setting(name, forms.get(name, ANYTHING), default, meanings.get(name, ""))


def meanings_of(made: Callable[..., object]) -> dict[str, str]:
    """Parameter -> the first sentence that the docstring's Args or Attributes have for it.

    "see `OtherCell`", "as in `other_function`" and the classes that a class inherits from are followed.
    """
    while isinstance(made, functools.partial):
        made = made.func
    texts = [inspect.getdoc(one) or "" for one in [made, *_bases(made), *_referred(made)]]
    found: dict[str, str] = {}
    for said in map(_described, texts):
        found |= {
            name: meaning for name, meaning in said.items() if name not in found or _refers(found[name])
        }
    return found


def _refers(meaning: str) -> bool:
    """Whether it only says where the meaning stands."""
    return re.fullmatch(r"(?:see|as in) `\w+`", meaning) is not None


def _bases(made: Callable[..., object]) -> list[Callable[..., object]]:
    return [one for one in getattr(made, "__mro__", ())[1:] if one.__module__.startswith("sparsernn")]


def _referred(made: Callable[..., object]) -> list[Callable[..., object]]:
    names: Mapping[str, Callable[..., object]] = vars(sys.modules.get(made.__module__, object))
    text = inspect.getdoc(made) or ""
    classes = [word for word in re.findall(r"`(\w+)`", text) if inspect.isclass(names.get(word))]
    functions = [word for word in re.findall(r"as in `(\w+)`", text) if inspect.isfunction(names.get(word))]
    return [names[word] for word in (*classes, *functions)]


def _described(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:(?: +.*)?\n?)*)", text, re.M)
    body = inspect.cleandoc(section.group(1)) if section else ""
    for names, said in re.findall(r"^([\w, ]+): (.*(?:\n .*)*)", body, re.M):
        sentence = re.split(r"(?<=\w|\)|\]|\"|`)\.(?=\s|$)", " ".join(said.split()), maxsplit=1)[0]
        found |= dict.fromkeys(re.split(r", *", names), sentence)
    return found
