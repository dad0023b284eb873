"""What a sweep may try for a setting: a list of values, or a range to draw from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.settings import assignments, parse

if TYPE_CHECKING:
    from optuna import Trial

_RANGE = re.compile(r"(?P<kind>[a-z]+)\(\s*(?P<low>[^,()]+?)\s*,\s*(?P<high>[^,()]+?)\s*\)")
_DRAWS: dict[str, Callable[[Trial, str, float, float], float]] = {
    "uniform": lambda trial, name, low, high: trial.suggest_float(name, low, high),
    "loguniform": lambda trial, name, low, high: trial.suggest_float(name, low, high, log=True),
    "integer": lambda trial, name, low, high: trial.suggest_int(name, int(low), int(high)),
}


@dataclass(frozen=True)
class Space:
    """The values that one setting may take.

    Attributes:
        text: as the user wrote it.
        choices: the values to try, each as YAML; () for a range.
        kind, low, high: of a range.
    """

    text: str
    choices: tuple[str, ...] = ()
    kind: str = ""
    low: float = 0.0
    high: float = 0.0

    @property
    def example(self) -> str:
        """One value of it, as YAML."""
        return self.choices[0] if self.choices else self._shown(self.low)

    def draw(self, trial: Trial, name: str) -> str:
        """What a trial is to try, as YAML."""
        if self.choices:
            return str(trial.suggest_categorical(name, list(self.choices)))
        return self._shown(_DRAWS[self.kind](trial, name, self.low, self.high))

    def _shown(self, value: float) -> str:
        return str(int(value)) if self.kind == "integer" else repr(float(value))


def spaces_of(space: Mapping[str, Json] | Sequence[str]) -> dict[str, Space]:
    """Setting -> what it may be.

    Raises:
        InputError: no setting, one without a value, an empty list, a word that is no range, an empty range.

    Example:
        >>> spaces_of(["optimizer.lr=[10, 20]", "sparsity.density=uniform(.1, .5)"])["optimizer.lr"].choices
        ('10', '20')
    """
    given = assignments(space) if isinstance(space, Mapping) else list(space)
    if not given:
        raise InputError("there is nothing to try; give settings such as 'optimizer.lr=[10, 20, 40]'.")
    parts = (assignment.partition("=") for assignment in given)
    return {name.strip(): parse_space(name.strip(), text.strip().strip("'\"")) for name, _, text in parts}


def parse_space(name: str, text: str) -> Space:
    """What the text after `name=` allows.

    >>> parse_space("epochs", "integer(1, 5)").kind
    'integer'
    """
    found = _RANGE.fullmatch(text)
    if found:
        return _range(name, text, found)
    values = parse(text, f"the value of '{name}'") if text else None
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{name} is {text!r}; a sweep takes a list of values such as [1, 2, 5], or for a search "
            f"{', '.join(f'{kind}(low, high)' for kind in _DRAWS)}."
        )
    return Space(
        text, tuple(word.partition("=")[2] for word in assignments({str(k): v for k, v in enumerate(values)}))
    )


def _range(name: str, text: str, found: re.Match[str]) -> Space:
    kind = found["kind"]
    try:
        low, high = float(found["low"]), float(found["high"])
    except ValueError:
        low, high = 1.0, 0.0
    whole = kind != "integer" or (low.is_integer() and high.is_integer())
    if kind not in _DRAWS or not low < high or (kind == "loguniform" and low <= 0) or not whole:
        raise InputError(
            f"{name} is {text!r}; it must be uniform(low, high), loguniform(low, high) with low above 0, or "
            "integer(low, high), with low below high."
        )
    return Space(text, (), kind, low, high)
