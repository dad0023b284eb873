"""What an annotation allows: values that fit, and the words for it.

`form_of` reads an annotation once; a form then answers `fits`, refuses in one sentence, and prints itself in
the lists of settings.
"""

import difflib
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sparsernn.core.errors import InputError
from sparsernn.core.limits import Kind, Limit, OneOf, Spec

LONGEST_QUOTE = 200  # characters of a value that a message repeats


class Form:
    """What an annotation allows; the null member allows everything and has no words for it."""

    def fits(self, value: object) -> bool:
        """Whether the value may stand."""
        return True

    def words(self) -> list[str]:
        """The words among which a misspelt one is looked for."""
        return []

    def refuse(self, what: str, value: object) -> None:
        """Raise InputError unless the value fits."""
        if not self.fits(value):
            hint = suggest(value, self.words()) if isinstance(value, str) else ""
            raise InputError(f"{what} is {quote(value)}; it must be {self}.{hint}")

    def __str__(self) -> str:
        return ""


ANYTHING = Form()


@dataclass(frozen=True)
class Number(Form):
    """A whole or finite number within limits."""

    whole: bool
    limits: Sequence[Limit] = ()

    def fits(self, value: object) -> bool:
        """Whether it is such a number; a truth value is none."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.whole else numbers.Real):
            return False
        # a whole number may be too large for a float to say whether it is finite
        finite = isinstance(value, numbers.Integral) or math.isfinite(value)
        return finite and all(limit.holds(value) for limit in self.limits)

    def __str__(self) -> str:
        return " ".join(["a whole number" if self.whole else "a finite number", *map(str, self.limits)])


@dataclass(frozen=True)
class Words(Form):
    """One of some words."""

    known: Iterable[str]

    def fits(self, value: object) -> bool:
        """Whether the word is known."""
        return isinstance(value, str) and value in self.words()

    def words(self) -> list[str]:
        """The known words."""
        return list(self.known)

    def __str__(self) -> str:
        words = self.words()
        return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"


@dataclass(frozen=True)
class Text(Form):
    """A string of a certain spelling."""

    limits: Sequence[Limit]

    def fits(self, value: object) -> bool:
        """Whether it is a string within the limits."""
        return isinstance(value, str) and all(limit.holds(value) for limit in self.limits)

    def __str__(self) -> str:
        return " ".join(map(str, self.limits))


@dataclass(frozen=True)
class Member(Form):
    """A value of a class."""

    kind: type
    name: str

    def fits(self, value: object) -> bool:
        """Whether it is of the class."""
        return isinstance(value, self.kind)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ListOf(Form):
    """A list whose entries are alike."""

    entry: Form
    limits: Sequence[Limit] = ()

    def fits(self, value: object) -> bool:
        """Whether it is a list, each entry of its form, within the limits."""
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and (self.entry is ANYTHING or all(map(self.entry.fits, value)))
            and all(limit.holds(value) for limit in self.limits)
        )

    def __str__(self) -> str:
        entries = f", each entry {self.entry}" if str(self.entry) else ""
        return " ".join(["a list", *map(str, self.limits)]) + entries


@dataclass(frozen=True)
class MappingOf(Form):
    """Names of the user's own, each with a value of one form."""

    entry: Form
    limits: Sequence[Limit] = ()

    def fits(self, value: object) -> bool:
        """Whether it is a mapping, each value of its form."""
        return (
            isinstance(value, Mapping)
            and all(map(self.entry.fits, value.values()))
            and all(limit.holds(value) for limit in self.limits)
        )

    def __str__(self) -> str:
        entries = f" with {self.entry} for each name" if str(self.entry) else ""
        return " ".join(["a mapping", *map(str, self.limits)]) + entries


@dataclass(frozen=True)
class Group(Form):
    """Settings with names of their own, checked one by one."""

    settings: Mapping[str, Form]
    required: frozenset[str] = frozenset()

    def fits(self, value: object) -> bool:
        """Whether it is a mapping of known names to values that fit, none missing."""
        return (
            isinstance(value, Mapping)
            and self.required <= value.keys()
            and all(key in self.settings and self.settings[key].fits(entry) for key, entry in value.items())
        )

    def refuse(self, what: str, value: object) -> None:
        """Raise InputError for the first name or value that cannot be, with its path."""
        if not isinstance(value, Mapping):
            super().refuse(what, value)
            return
        check_names(what, value, list(self.settings))
        for key, entry in value.items():
            self.settings[key].refuse(f"{what}.{key}", entry)
        if missing := [key for key in self.settings if key in self.required - value.keys()]:
            raise InputError(f"{what} is {quote(value)}; it needs {', '.join(missing)} as well.")

    def __str__(self) -> str:
        return f"a mapping with {'' if self.required else 'some of '}{', '.join(self.settings)}"


@dataclass(frozen=True)
class Either(Form):
    """One of several forms."""

    members: Sequence[Form]

    def fits(self, value: object) -> bool:
        """Whether one of them fits."""
        return any(member.fits(value) for member in self.members)

    def words(self) -> list[str]:
        """Those of all members."""
        return [word for member in self.members for word in member.words()]

    def refuse(self, what: str, value: object) -> None:
        """Raise InputError unless one fits; a mapping is compared with the group, where there is one."""
        groups = [member for member in self.members if isinstance(member, Group)]
        if groups and isinstance(value, Mapping) and not self.fits(value):
            groups[0].refuse(what, value)
        super().refuse(what, value)

    def __str__(self) -> str:
        return " or ".join(map(str, self.members))


TRUTH, _NULL, _STRING = Member(bool, "true or false"), Member(types.NoneType, "null"), Member(str, "a string")
_NAME = Member(str, "a name")
_PLAIN: dict[object, Form] = {bool: TRUTH, types.NoneType: _NULL, None: _NULL, str: _STRING}


def form_of(hint: object) -> Form:
    """What a type annotation allows; a class of the program's own objects stands only beside settings.

    >>> from sparsernn.core.limits import Size
    >>> str(form_of(Size | None)), str(form_of(Literal["sum", "mean"]))
    ('a whole number of at least 1 or null', 'sum or mean')
    """
    form = _form_of(hint)
    return ANYTHING if _is_foreign(form) else form


def _form_of(hint: object) -> Form:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _limited(inside[0], [mark for mark in inside[1:] if hasattr(mark, "holds")])
    if origin in (typing.Union, types.UnionType):
        return _either([_form_of(member) for member in inside])
    if origin is Literal:
        return Words(inside) if all(isinstance(word, str) for word in inside) else ANYTHING
    return _limited(hint, [])


def _limited(hint: object, limits: list[Limit]) -> Form:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float):
        return Number(hint is int, tuple(limits))
    if hint is str and limits:
        return Words(limits[0].words) if isinstance(limits[0], OneOf) else Text(tuple(limits))
    if hint is Spec or hint == Spec:
        return Either((_NAME, MappingOf(ANYTHING, tuple(limits) or (Kind(""),))))
    if origin in (list, Sequence):
        return ListOf(form_of(inside[0]), tuple(limits))
    if origin in (dict, Mapping):
        return MappingOf(form_of(inside[1]), tuple(limits))
    return _form_of(hint) if origin is not None and limits else _class_form(hint)


def _class_form(hint: object) -> Form:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if typing.is_typeddict(hint):
        entries = typing.get_type_hints(hint, include_extras=True)
        return Group(
            {name: form_of(entry) for name, entry in entries.items()}, vars(hint)["__required_keys__"]
        )
    if isinstance(hint, type) and hint not in (object, Any) and not getattr(hint, "_is_protocol", False):
        article = "an" if hint.__name__[0] in "AEIOU" else "a"
        return Member(hint, f"{article} {hint.__name__}") if typing.get_origin(hint) is None else ANYTHING
    return ANYTHING


def _said_after(form: Form) -> int:
    """Null comes late in a sentence, and a list, which has commas, at its end."""
    return 2 if isinstance(form, ListOf) else int(form is _NULL)


def _is_foreign(form: Form) -> bool:
    """Whether it is a class of objects that no recipe can hold: whoever uses them judges them."""
    return isinstance(form, Member) and form not in (*_PLAIN.values(), _NAME)


def _either(members: list[Form]) -> Form:
    said = [member for member in members if member is not _NULL and not _is_foreign(member)]
    if ANYTHING in members or not said:
        return ANYTHING
    return Either(tuple(sorted(members, key=_said_after)))


def suggest(word: str, known: list[str]) -> str:
    """' Did you mean 'x'?' when `word` is close to one of `known`, else ''.

    >>> suggest("slefish", ["selfish", "rigl"])
    " Did you mean 'selfish'?"
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def quote(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} ..."


def check_known(what: str, name: object, known: Iterable[str]) -> None:
    """Refuse a name that a table does not have.

    >>> check_known("cell", "gur", ["gru", "lstm"])
    Traceback (most recent call last):
    sparsernn.core.errors.InputError: cell 'gur' is unknown; known: gru, lstm. Did you mean 'gru'?
    """
    names = list(known)
    if name not in names:
        raise InputError(f"{what} '{name}' is unknown; known: {', '.join(names)}.{suggest(str(name), names)}")


def check_names(what: str, given: Iterable[object], known: Sequence[str]) -> None:
    """Refuse a setting whose name is not known.

    >>> check_names("dropout", {"outptu": 0.5}, ["output"])
    Traceback (most recent call last):
    sparsernn.core.errors.InputError: dropout has no setting 'outptu'; it accepts: output. Did you mean 'output'?
    """
    for key in given:
        if key not in known:
            accepted = ", ".join(known) or "no settings"
            raise InputError(
                f"{what} has no setting '{key}'; it accepts: {accepted}.{suggest(str(key), list(known))}"
            )
