"""Tables out of files: CSV, NPZ, Parquet, and the .ts files of the UCR and UEA archives."""

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.core.packages import check_installed
from sparsernn.data.numeric_table import Table, column_array
from sparsernn.data.text_files import read_bytes, read_text

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
SERIES, LABEL = "series", "label"
"""Columns of a table that is made of whole series, not of rows: the number of each, counted from 1, and its label."""

MOST_COLUMNS = 100_000


def read_table(path: str | Path, separator: str | None = None) -> Table:
    """The table of a file, whose ending says how it is read; .csv, .tsv and .ts may be packed, `.gz` behind it.

    Args:
        path: .csv or .tsv: a line of names, then a row per line. .npz: arrays of numpy by name, each a column (N,),
            or one of whole series (N, T) or (N, T, C), which makes columns `name` or `name.1` to `name.C`, a column
            "series" that numbers them and repeats what the arrays (N,) say of each; steps at the end that are all NaN
            are none. .parquet: read by pyarrow. .ts: columns c1, c2 ..., "series" and "label".
        separator: "comma", "semicolon" or "tab"; None: tab for .tsv, else the one that the line of names has most.

    Raises:
        InputError: no such file, another ending, or a file that is damaged or no table.
    """
    ending = _ending(path)
    check_value("separator", separator, Annotated[str, OneOf(SEPARATORS)] | None)
    if ending not in READERS:
        raise InputError(f"'{path}' ends in '{ending}'; a table is read from {', '.join(READERS)}.")
    made = READERS[ending](Path(path), separator)
    if not len(made.lines):
        raise InputError(f"'{path}' has no rows; a table needs at least one.")
    return made


def _ending(path: str | Path) -> str:
    bare = Path(str(path).lower().removesuffix(".gz"))
    return bare.suffix


def _read_csv(path: Path, separator: str | None) -> Table:
    text = read_text(path)
    names_line = text.partition("\n")[0]
    if separator is None:
        counts = {mark: names_line.count(mark) for mark in SEPARATORS.values()}
        mark = "\t" if _ending(path) == ".tsv" else max(counts, key=lambda mark: counts[mark])
    else:
        mark = SEPARATORS[separator]
    reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    rows, lines = [], []
    try:
        names = [name.strip() for name in next(reader)]
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):  # an empty line
                _check_width(path, reader.line_num, len(row), len(names))
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(
            f"'{path}', line {reader.line_num} is no line of a table ({error}); see its quotes."
        ) from None
    _check_names(path, names)
    columns = {name: column_array([row[k] for row in rows]) for k, name in enumerate(names)}
    return Table(str(path), columns, np.array(lines, np.int64))


def _check_width(path: Path, line: int, width: int, needed: int) -> None:
    if width != needed:
        raise InputError(
            f"'{path}', line {line} has {width} columns, and the line of names has {needed}; each line needs as many."
        )


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise InputError(
            f"'{path}' has the column '{twice[0]}' twice in its first line; names must be different, and the first "
            "line must hold them."
        )


def _read_npz(path: Path, separator: str | None) -> Table:
    data = read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        MemoryError,
        AttributeError,
    ) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"'{path}' is no NPZ file of plain arrays ({reason}); write it with numpy.savez."
        ) from None
    arrays = {name: _plain(path, name, array) for name, array in arrays.items() if array.ndim}
    if not arrays:
        raise InputError(f"'{path}' has no array; each column is one.")
    lengths = {name: len(array) for name, array in arrays.items()}
    odd = next((name for name in lengths if lengths[name] != next(iter(lengths.values()))), None)
    if odd is not None:
        first = next(iter(lengths))
        raise InputError(
            f"'{path}' has {lengths[first]} rows in '{first}' and {lengths[odd]} in '{odd}'; all arrays need as many."
        )
    if any(array.ndim > 1 for array in arrays.values()):
        return _whole_series(path, arrays)
    return Table(str(path), arrays, np.arange(1, 1 + next(iter(lengths.values()))), "row")


def _plain(path: Path, name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype.kind in "iufb":
        return array
    if array.dtype.kind in "UM" and array.ndim == 1:
        return column_array([str(value) for value in array])
    raise InputError(f"'{path}' has {array.dtype} in '{name}'; numbers, texts and dates are read.")


def _whole_series(path: Path, arrays: dict[str, NDArray[np.generic]]) -> Table:
    """Arrays (N, T) and (N, T, C) as rows, one step after the other."""
    wide = {name: array for name, array in arrays.items() if array.ndim > 1}
    shapes = {array.shape[:2] for array in wide.values()}
    if len(shapes) > 1 or any(array.ndim > 3 for array in wide.values()) or SERIES in arrays:
        shown = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"'{path}' has the arrays {shown}; whole series are (N, T) or (N, T, C) of one N and T, and none is "
            f"called '{SERIES}'."
        )
    count, steps = next(iter(shapes))
    columns: dict[str, NDArray[np.generic]] = {}
    for name, array in wide.items():
        cells = array.astype(np.float64).reshape(count * steps, -1)
        if cells.shape[1] > MOST_COLUMNS:
            raise InputError(
                f"'{path}' has {cells.shape[1]:,} columns in '{name}'; {MOST_COLUMNS:,} are read."
            )
        names = [name] if array.ndim == 2 else [f"{name}.{k + 1}" for k in range(cells.shape[1])]
        columns |= dict(zip(names, cells.T, strict=True))
    absent = np.all([np.isnan(column) for column in columns.values()], axis=0).reshape(count, steps)
    kept = (~np.flip(np.logical_and.accumulate(np.flip(absent, 1), 1), 1)).reshape(-1)
    columns |= {name: np.repeat(array, steps) for name, array in arrays.items() if array.ndim == 1}
    columns[SERIES] = np.repeat(np.arange(1, count + 1), steps)
    held = {name: column[kept] for name, column in columns.items()}
    return Table(str(path), held, held[SERIES].astype(np.int64), "row")


def _read_parquet(path: Path, separator: str | None) -> Table:
    check_installed(
        f"'{path}', a Parquet file,", "pyarrow", install="pyarrow", instead="CSV needs nothing else"
    )
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table as read

    data = read_bytes(path)
    try:
        held = read(io.BytesIO(data))
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"'{path}' is no Parquet file ({reason}).") from None
    _check_names(path, list(held.column_names))
    columns = {}
    for name in held.column_names:
        column = held.column(name).to_numpy()
        columns[name] = column if column.dtype.kind in "iufb" else column_array([_text(v) for v in column])
    return Table(str(path), columns, np.arange(1, 1 + held.num_rows), "row")


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and value != value) else str(value)


def _read_ts(path: Path, separator: str | None) -> Table:
    """A series per line, its dimensions parted by colons, the label at the end."""
    lines = read_text(path).split("\n")
    begin = next((k for k, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if begin is None:
        raise InputError(f"'{path}' has no line @data; a .ts file has its series below one.")
    cells: list[list[str]] = []
    names: list[str] = []
    series: list[int] = []
    places: list[int] = []
    labels: list[str] = []
    for number, line in enumerate(lines[begin + 1 :], begin + 2):
        if not line.strip():
            continue
        *dimensions, label = line.strip().split(":")
        parts = [dimension.split(",") for dimension in dimensions]
        if not parts or len({len(part) for part in parts}) != 1 or "(" in line:
            raise InputError(
                f"'{path}', line {number} is no series; its dimensions need equally many numbers, with colons "
                "between them and its label at the end."
            )
        names = names or [f"c{k + 1}" for k in range(len(parts))]
        if len(parts) != len(names):
            raise InputError(
                f"'{path}', line {number} has {len(parts)} dimensions, and the first series {len(names)}."
            )
        cells += map(list, zip(*parts, strict=True))
        steps = len(parts[0])
        series += [number - begin - 1] * steps
        places += [number] * steps
        labels += [label.strip()] * steps
    columns: dict[str, NDArray[np.generic]] = {
        name: column_array([row[k] for row in cells]) for k, name in enumerate(names)
    }
    columns |= {SERIES: np.array(series, np.int64), LABEL: column_array(labels)}
    return Table(str(path), columns, np.array(places, np.int64))


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
    ".ts": _read_ts,
}
"""Ending of a file -> what reads it."""
