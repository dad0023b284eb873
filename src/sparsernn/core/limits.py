"""What a setting's annotation may ask beyond its type, and the ranges that many settings have.

    hidden_size: Size
    theta: Annotated[float, Between(0, 1, open="high")]

A limit is anything with `holds` and a text that continues the words "a whole number" or "a list".
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Protocol

from sparsernn.core.plain import Json


class Limit(Protocol):
    """What an annotation asks of a value beyond its type; `str` continues the words "a whole number"."""

    def holds(self, value: Json) -> bool:
        """Whether a value of the right type may stand."""


@dataclass(frozen=True)
class Between:
    """From `low` to `high`; `open` names the ends that are left out.

    >>> str(Between(0, 1)), str(Between(0, 1, open="high")), Between(0, 1, open="high").holds(1)
    ('in [0, 1]', 'in [0, 1)', False)
    """

    low: float
    high: float
    open: Literal["", "low", "high", "both"] = ""

    def holds(self, value: float) -> bool:
        """Whether the number lies inside."""
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        return bool(above and (value < self.high if self.open in ("high", "both") else value <= self.high))

    def __str__(self) -> str:
        left, right = (
            "(" if self.open in ("low", "both") else "[",
            ")" if self.open in ("high", "both") else "]",
        )
        return f"in {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class AtLeast:
    """`low` or more."""

    low: float

    def holds(self, value: float) -> bool:
        """Whether the number is not below."""
        return bool(value >= self.low)

    def __str__(self) -> str:
        return f"of at least {self.low}"


@dataclass(frozen=True)
class Above:
    """More than `low`."""

    low: float

    def holds(self, value: float) -> bool:
        """Whether the number is above."""
        return bool(value > self.low)

    def __str__(self) -> str:
        return f"above {self.low}"


@dataclass(frozen=True)
class Multiple:
    """A multiple of `of`."""

    of: int

    def holds(self, value: float) -> bool:
        """Whether nothing is left over."""
        return bool(value % self.of == 0)

    def __str__(self) -> str:
        return "that is even" if self.of == 2 else f"that is a multiple of {self.of}"


@dataclass(frozen=True)
class Entries:
    """A list with so many entries; without `most`, so many at least."""

    least: int
    most: int | None = None

    def holds(self, value: Sized) -> bool:
        """Whether the list is neither too short nor too long."""
        return self.least <= len(value) <= (len(value) if self.most is None else self.most)

    def __str__(self) -> str:
        if self.most == self.least:
            return f"of {self.least}"
        return f"of {self.least} or more" if self.most is None else f"of {self.least} to {self.most}"


@dataclass(frozen=True)
class Distinct:
    """A list without repetitions.

    >>> Distinct().holds(["a", "b"]), Distinct().holds(["a", "a"])
    (True, False)
    """

    def holds(self, value: Sequence[Json]) -> bool:
        """Whether each entry is there once."""
        return all(entry not in value[:place] for place, entry in enumerate(value))

    def __str__(self) -> str:
        return "without repetitions"


@dataclass(frozen=True)
class Rising:
    """A list whose entries rise."""

    def holds(self, value: Iterable[float]) -> bool:
        """Whether each entry is above the one before it."""
        return all(a < b for a, b in pairwise(value))

    def __str__(self) -> str:
        return "that rises"


@dataclass(frozen=True, eq=False)
class OneOf:
    """The words of a table, such as the keys of a dict."""

    words: Iterable[str]

    def holds(self, value: object) -> bool:
        """Whether the table has it."""
        return value in list(self.words)


@dataclass(frozen=True)
class Sum:
    """A list whose entries make a number in sum, up to rounding."""

    total: float

    def holds(self, value: Iterable[float]) -> bool:
        """Whether they do."""
        return abs(sum(value) - self.total) <= 1e-6

    def __str__(self) -> str:
        return f"that makes {self.total} in sum"


@dataclass(frozen=True)
class Named:
    """A mapping whose names are among some words."""

    words: Sequence[str]

    def holds(self, value: Iterable[str]) -> bool:
        """Whether they are."""
        return all(name in self.words for name in value)

    def __str__(self) -> str:
        return f"named {' or '.join(self.words)}"


@dataclass(frozen=True)
class Spelling:
    """A string that a regular expression matches as a whole; `words` say which those are."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        """Whether it is spelt so."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Kind:
    """Marks the spec of a component: which registry it is made from, such as "layer"."""

    name: str

    def holds(self, value: object) -> bool:
        """Whether the value can be a spec; its settings are looked at when it is made."""
        return isinstance(value, str) or (isinstance(value, Container) and "name" in value)

    def __str__(self) -> str:
        return "with the key 'name'"


Spec = str | Mapping[str, Json]
"""A component: its name, or a mapping of `name` and its settings."""

Size = Annotated[int, AtLeast(1)]
Count = Annotated[int, AtLeast(0)]
Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, Between(0, 1)]
DropRate = Annotated[float, Between(0, 1, open="high")]
"""The probability of dropping something: not all of it."""
Density = Annotated[float, Between(0, 1, open="low")]
"""The part that is kept: not nothing."""
