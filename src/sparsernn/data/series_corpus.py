"""Numeric series in three splits, and how they are cut out of tables."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data.numeric_table import Table, times_of

WHOLE = "all"
"""The name of a series where no column tells one from another."""


@dataclass(frozen=True)
class Series:
    """Rows that belong together, in the order of time.

    Attributes:
        name: the id.
        values: (T, C) float64, NaN where a number is missing.
        times: T texts, as they are written; the number of the line where there is no column of times.
        targets: T texts of the target's column; () where there is none.
        places: T places, for messages.
        order: (T,) float64, the times as numbers.
    """

    name: str
    values: NDArray[np.float64]
    times: tuple[str, ...]
    targets: tuple[str, ...]
    places: tuple[str, ...] = field(repr=False)
    order: NDArray[np.float64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def part(self, kept: NDArray[np.bool_]) -> "Series":
        """The rows where `kept`, (T,), is true."""

        def some(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text for text, keep in zip(texts, kept, strict=True) if keep) if texts else ()

        return replace(
            self,
            values=self.values[kept],
            times=some(self.times),
            targets=some(self.targets),
            places=some(self.places),
            order=self.order[kept],
        )


@dataclass(frozen=True)
class SeriesCorpus:
    """Numeric series with what is to be said about them.

    Attributes:
        splits: "train", "valid", "test" -> series.
        info: plain facts for the run folder: `name`, `source`, `sha256` per split, `note`, `read`, which says how
            the tables were read (`Reading`), and `series` and `steps` of each split.
    """

    splits: dict[str, list[Series]]
    info: dict[str, Json]


@dataclass(frozen=True)
class Reading:
    """Which columns of a table are what.

    Attributes:
        columns: what is read at each step; None: every column but the others named here.
        target: the column that is predicted.
        group: the column whose value tells one series from another; None: all rows are one series.
        time: the column of times; None: rows are in order.
        missing: "refuse", or "mask": read the mean instead, and one more input that says so.
        separator: of a CSV file; see `read_table`.
    """

    columns: tuple[str, ...] | None
    target: str
    group: str | None = None
    time: str | None = None
    missing: str = "refuse"
    separator: str | None = None

    def plain(self) -> dict[str, Json]:
        """The same as JSON can hold it.

        >>> Reading(("x",), "y").plain()["columns"]
        ['x']
        """
        return {**asdict(self), "columns": None if self.columns is None else list(self.columns)}

    @classmethod
    def of(cls, plain: Mapping[str, Json]) -> "Reading":
        """What `plain` returned.

        >>> Reading.of(Reading(("x",), "y").plain()).columns
        ('x',)
        """
        columns = plain["columns"]
        return cls(**{**plain, "columns": None if columns is None else tuple(columns)})

    def settled(self, table: Table) -> "Reading":
        """With columns that are named, after the first table that is read.

        Raises:
            InputError: a column that is not there or stands for two things, or none that is left to be read.
        """
        others = [name for name in (self.target, self.group, self.time) if name is not None]
        columns = self.columns
        if columns is None:
            columns = tuple(name for name in table.columns if name not in others)
        if not columns:
            raise InputError(
                f"'{table.file}' has no column beside {', '.join(others)}; name what is read, such as columns: "
                f"[{self.target}] to forecast it from its own past."
            )
        if len(set(columns)) < len(columns) or len(set(others)) < len(others):
            raise InputError(
                f"columns is {list(columns)}, target '{self.target}', group {self.group!r} and time {self.time!r}; "
                "each needs another column."
            )
        return replace(self, columns=columns)


def series_of(table: Table, reading: Reading, with_targets: bool = True) -> list[Series]:
    """The series of a table, in the order in which they begin.

    Args:
        table: see `read_table`.
        reading: with columns; see `Reading.settled`.
        with_targets: whether the target's column is needed.

    Raises:
        InputError: a column that is not there, a row without its id, a time that stands twice in a series, a missing
            number where such are refused; the sentence names file, line and column.
    """
    columns = reading.columns or ()
    table.require(columns, "columns")
    for what, name in (("group", reading.group), ("time", reading.time)):
        table.require([name] if name else [], what)
    if with_targets:
        table.require([reading.target], "target")
    values = np.stack([table.numbers(name) for name in columns], 1)
    if reading.missing == "refuse":
        _refuse_missing(table, columns, values)
    rows = len(table.lines)
    names = table.texts(reading.group) if reading.group else [WHOLE] * rows
    times = table.texts(reading.time) if reading.time else [str(int(line)) for line in table.lines]
    order = times_of(table, reading.time) if reading.time else np.arange(rows, dtype=np.float64)
    targets = table.texts(reading.target) if with_targets else []
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if not name:
            raise InputError(f"{table.where(row)}, column '{reading.group}' is empty; each row needs its id.")
        members.setdefault(name, []).append(row)
    found = []
    for name, held in members.items():
        chosen = np.array(held)[np.argsort(order[held], kind="stable")]
        _refuse_twice(table, reading, name, chosen, order[chosen], times)
        found.append(
            Series(
                name,
                values[chosen],
                tuple(times[row] for row in chosen),
                tuple(targets[row] for row in chosen) if with_targets else (),
                tuple(table.where(row) for row in chosen),
                order[chosen],
            )
        )
    return found


def _refuse_missing(table: Table, columns: Sequence[str], values: NDArray[np.float64]) -> None:
    absent = np.argwhere(np.isnan(values))
    if len(absent):
        row, column = map(int, absent[0])
        raise InputError(
            f"{table.where(row)}, column '{columns[column]}' has no number ({len(absent):,} are missing); fill them, "
            "or say missing: mask to read the mean there and be told so."
        )


def _refuse_twice(
    table: Table,
    reading: Reading,
    name: str,
    rows: NDArray[np.generic],
    order: NDArray[np.float64],
    times: list[str],
) -> None:
    same = np.flatnonzero(np.diff(order) == 0)
    if len(same):
        row = int(rows[same[0] + 1])
        group = f" of the series '{name}'" if reading.group else ", which no column 'group' parts"
        raise InputError(
            f"{table.where(row)}, column '{reading.time}' has the time {times[row]} again in the rows{group}; a time "
            "stands once in a series."
        )


def digest(series: Iterable[Series]) -> str:
    """A hash of names, numbers, times and targets, which tells one split from another.

    >>> digest([]) == digest([])
    True
    """
    seen = hashlib.sha256()
    for one in series:
        seen.update("\0".join((one.name, *one.times, *one.targets, "")).encode("utf-8", "surrogatepass"))
        seen.update(np.nan_to_num(one.values, nan=-1.5e300).astype("<f8").tobytes())
    return seen.hexdigest()
