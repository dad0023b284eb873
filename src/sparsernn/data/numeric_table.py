"""A table as it stands in a file: columns of text or numbers, and the line of each row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsernn.core.errors import InputError
from sparsernn.core.forms import suggest

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a missing number, in any case of letters."""

SHOWN = 12
"""Columns that a message names at most."""


@dataclass(frozen=True)
class Table:
    """Columns of one length.

    Attributes:
        file: its name, for messages.
        columns: name -> texts, or numbers where the file says that they are such (NaN: missing).
        lines: (N,) int64, where each row stands.
        unit: what `lines` counts: "line" of a text file, "row" of another one.
    """

    file: str
    columns: Mapping[str, NDArray[np.generic]]
    lines: NDArray[np.int64]
    unit: str = "line"

    def where(self, row: int) -> str:
        """A row's place, for messages.

        >>> Table("a.csv", {}, np.array([2, 3])).where(1)
        "'a.csv', line 3"
        """
        return f"'{self.file}', {self.unit} {int(self.lines[row])}"

    def require(self, names: Iterable[str], what: str) -> None:
        """Raise InputError, one sentence with the file and the columns that it has, unless all are there.

        >>> Table("a.csv", {"x": np.zeros(0)}, np.zeros(0, np.int64)).require(["y"], "target")
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: 'a.csv' has no column 'y', which target names; it has: x.
        """
        for name in names:
            if name not in self.columns:
                known = list(self.columns)
                shown = ", ".join(known[:SHOWN]) + (" ..." if len(known) > SHOWN else "")
                raise InputError(
                    f"'{self.file}' has no column '{name}', which {what} names; it has: {shown}."
                    f"{suggest(name, known)}"
                )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, NaN where one is missing.

        Raises:
            InputError: text that is no finite number; the sentence names file, line and column.

        Example:
            >>> Table("a.csv", {"x": np.array(["1.5", "NA"])}, np.array([2, 3])).numbers("x").tolist()
            [1.5, nan]
        """
        column = self.columns[name]
        if column.dtype.kind in "iufb":
            found = column.astype(np.float64)
            if np.isinf(found).any():
                row = int(np.isinf(found).argmax())
                raise InputError(
                    f"{self.where(row)}, column '{name}' is {found[row]}; a finite number is needed."
                )
            return found
        return np.array([self._number(name, row, str(cell)) for row, cell in enumerate(column)], np.float64)

    def _number(self, name: str, row: int, cell: str) -> float:
        try:
            return number(cell)
        except ValueError:
            shown = cell if len(cell) <= 40 else cell[:37] + "..."
            raise InputError(
                f"{self.where(row)}, column '{name}' is {shown!r}; a finite number is needed, with a point "
                "before its decimals."
            ) from None

    def texts(self, name: str) -> list[str]:
        """A column as texts, without white space around them; "" where something is missing.

        >>> Table("a.npz", {"x": np.array([1.0, 2.5, np.nan])}, np.arange(3)).texts("x")
        ['1', '2.5', '']
        """
        column = self.columns[name]
        if column.dtype.kind == "f":
            return [_shortest(float(value)) for value in column]
        return ["" if value is None else str(value).strip() for value in column]


def number(cell: str) -> float:
    """The number that a cell holds; NaN where it holds none.

    Raises:
        ValueError: neither a finite number nor one of `MISSING`.

    Example:
        >>> number(" 1e3"), number("?")
        (1000.0, nan)
    """
    word = cell.strip()
    if word.lower() in MISSING:
        return math.nan
    found = float(word)
    if math.isinf(found) or "_" in word:
        raise ValueError(word)
    return found


def times_of(table: Table, name: str) -> NDArray[np.float64]:
    """A column of times as numbers that are in the same order: numbers, or dates as ISO 8601 writes them.

    Raises:
        InputError: a time that is missing, or neither a number nor such a date; numbers among dates, which have no
            common order (20200102 is a number).

    Example:
        >>> table = Table("a.csv", {"t": np.array(["2020-01-02", "2020-01-01T12:00"])}, np.array([2, 3]))
        >>> times_of(table, "t").argsort().tolist()
        [1, 0]
    """
    texts = None if table.columns[name].dtype.kind in "iufb" else table.texts(name)
    if texts is None:
        found = table.numbers(name)
    else:
        found = np.array([_time(table, name, row, text) for row, text in enumerate(texts)])
    if np.isnan(found).any():
        row = int(np.isnan(found).argmax())
        raise InputError(f"{table.where(row)}, column '{name}' has no time; each row needs one.")
    _check_one_kind(table, name, texts or ())
    return found


def _check_one_kind(table: Table, name: str, texts: Sequence[str]) -> None:
    first: dict[bool, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(_is_number(text), row)
    if len(first) == 2:
        one, other = (f"{texts[first[k]]!r} ({table.where(first[k])})" for k in (False, True))
        raise InputError(
            f"the column '{name}' has dates, such as {one}, and numbers, such as {other}; times are one or the other."
        )


def _is_number(text: str) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True


def _time(table: Table, name: str, row: int, text: str) -> float:
    from datetime import UTC, datetime

    try:
        return number(text)
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{table.where(row)}, column '{name}' is {text!r}; a time is a number or a date such as 2024-05-31 or "
            "2024-05-31T12:00."
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _shortest(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def column_array(cells: Sequence[str]) -> NDArray[np.generic]:
    """Texts as a column.

    >>> column_array(["a", "longer"]).tolist()
    ['a', 'longer']
    """
    made = np.empty(len(cells), dtype=object)
    made[:] = cells
    return made
