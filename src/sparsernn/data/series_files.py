"""Series by name: a table of yours, and the Japanese vowels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Between
from sparsernn.core.packages import check_installed, folder_of
from sparsernn.core.plain import Json
from sparsernn.data.content_split import SPLITS, check_shares, position
from sparsernn.data.series_corpus import Reading, Series, SeriesCorpus, digest, series_of
from sparsernn.data.split_files import find_split, named_place, origins, place_of
from sparsernn.data.table_files import LABEL, READERS, SERIES, read_table

ENDINGS = tuple(READERS)
SHARES = (80, 10, 10)
"""Per cent of train, valid and test where one file is split."""

HeldOut = Annotated[float, Between(0, 0.5)]
By = Literal["group", "time"]
Missing = Literal["refuse", "mask"]
Parts = dict[str, list[Series]]


@checked
def table(
    path: str | Path | None = None,
    target: str = "target",
    columns: Sequence[str] | None = None,
    group: str | None = None,
    time: str | None = None,
    missing: Missing = "refuse",
    split: By = "group",
    shares: Sequence[float] = SHARES,
    splits: Mapping[str, str] | None = None,
    held_out: HeldOut = 0.0,
    separator: str | None = None,
    *,
    data_dir: str | Path | None = None,
) -> SeriesCorpus:
    """Numeric series of yours: a table (.csv, .tsv, .npz, .parquet, .ts), or a folder with one for each split.

    Args:
        path: the file, or a folder whose files are found by a word of their names (train.csv, valid.csv, test.csv).
        target: the column that is predicted: a label, a number, or what is to be forecast.
        columns: what is read at each step; null: every column but target, group and time.
        group: the column that tells one series from another; null: a table is one series.
        time: the column of times, numbers or ISO dates, which rows are put in the order of; null: they stand in it.
        missing: "refuse" a missing number, or "mask" it: the mean is read there and one more input for each column
            says so, and a missing target is not scored.
        split: how one file is split: by "group", whole series by a hash of their ids, or by "time": the earliest
            rows to train, the latest to test.
        shares: of one file: train, valid and test in per cent.
        splits: of a folder: read another file for a split, {valid: test} for example; the note of the corpus says so.
        held_out: of a folder: the share of the training series, by a hash of their ids, that is validated on in place
            of a file.
        separator: of a CSV file: "comma", "semicolon" or "tab"; null: what the line of names has most.
        data_dir: takes the place of `path`: the folder, or the one that has the file.

    Raises:
        InputError: no such file or column, a number that is missing or none, a split without a series; the sentence
            names file, line and column.
    """
    place = place_of("table", path, data_dir)
    if place.is_dir() and path is not None and (place / Path(path).name).is_file():
        place = place / Path(path).name
    named = None if columns is None else tuple(columns)
    reading = Reading(named, target, group, time, missing, separator)
    if place.is_dir():
        return _of_folder("table", place, reading, splits, held_out, ENDINGS)
    return _of_file(place, reading, split, shares)


def vowels(
    path: str | Path | None = None, held_out: HeldOut = 0.2, *, data_dir: str | Path | None = None
) -> SeriesCorpus:
    """Japanese vowels: 640 utterances of "ae", 7 to 29 steps of 12 numbers; which of nine men speaks.

    270 utterances are trained and validated on, 370 tested on. The files are those of the UEA archive,
    JapaneseVowels_TRAIN.ts and _TEST.ts, which the package aeon has among its data; nothing of it is imported, so
    that `pip install --no-deps aeon` is enough.

    Args:
        path: a folder with the two files, or one with a folder `vowels` that has them; null: $SPARSERNN_DATA, then
            the installed aeon.
        held_out: share of the training utterances that is validated on, by a hash of their numbers.
        data_dir: takes the place of `path`.

    Raises:
        InputError: no files, or damaged ones.

    Source: M. Kudo, J. Toyama and M. Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions",
    Pattern Recognition Letters 20, 1999.
    """
    place = named_place("vowels", path, data_dir) or _folder_of_aeon()
    return _of_folder("vowels", place, Reading(None, LABEL, SERIES), None, held_out, (".ts",))


def _folder_of_aeon() -> Path:
    folder = "name a folder that has JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts with --data"
    check_installed("the corpus 'vowels'", "aeon", install="--no-deps aeon", instead=f"or {folder}")
    return folder_of("aeon") / "datasets" / "data" / "JapaneseVowels"


def _of_folder(
    name: str,
    place: Path,
    reading: Reading,
    splits: Mapping[str, str] | None,
    held_out: float,
    endings: Sequence[str],
) -> SeriesCorpus:
    origin = origins(splits)
    if held_out:
        origin["valid"] = origin["train"]
    files = {split: find_split(place, source, endings, "series") for split, source in origin.items()}
    tables = {file: read_table(file, reading.separator) for file in dict.fromkeys(files.values())}
    reading = reading.settled(tables[files["train"]])
    read = {file: series_of(held, reading) for file, held in tables.items()}
    parts = {split: read[file] for split, file in files.items()}
    notes = [f"{split} is read from the {source} file" for split, source in origin.items() if split != source]
    if held_out:
        parts |= _held_out(parts["train"], held_out, files["train"])
        notes = [f"valid is {held_out:g} of the series of the train file"]
    return _corpus(name, place, reading, parts, "; ".join(notes), {s: f.name for s, f in files.items()})


def _held_out(series: list[Series], share: float, file: Path) -> Parts:
    if len(series) < 2:
        raise InputError(f"'{file}' has one series; held_out needs at least 2, to validate on one of them.")
    places = {one.name: position(one.name) for one in series}
    first = min(places, key=lambda name: (places[name], name))
    held = {name for name, place in places.items() if place < share} | {first}
    held = held if len(held) < len(places) else {first}
    return {
        "train": [one for one in series if one.name not in held],
        "valid": [one for one in series if one.name in held],
    }


def _of_file(file: Path, reading: Reading, split: str, shares: Sequence[float]) -> SeriesCorpus:
    check_shares(shares)
    held = read_table(file, reading.separator)
    reading = reading.settled(held)
    series = series_of(held, reading)
    if split == "group":
        parts = _by_group(series, shares, file, reading.group)
        note = "whole series, by a hash of their ids"
    else:
        if reading.group and not reading.time:
            raise InputError(
                f"'{file}' is split by time, and its series have none; name the column of times as time."
            )
        parts, note = _by_time(series, shares), "the earliest rows are trained on, the latest tested on"
    return _corpus("table", file, reading, parts, note, dict.fromkeys(SPLITS, file.name))


def _by_group(series: list[Series], shares: Sequence[float], file: Path, group: str | None) -> Parts:
    if len(series) < len(SPLITS):
        found = f"{len(series)} in the column '{group}'" if group else "one, for no column is named as group"
        raise InputError(
            f"'{file}' is split by group and has too few series ({found}); at least 3 are needed, or split: time."
        )
    places = {one.name: position(one.name) for one in series}
    order = sorted(places, key=lambda name: (places[name], name))
    tested = sum(places[name] < shares[2] / 100 for name in order)
    held = sum(places[name] < (shares[1] + shares[2]) / 100 for name in order)
    tested = min(max(tested, 1), len(order) - 2)
    held = min(max(held, tested + 1), len(order) - 1)
    split_of = {
        name: "test" if k < tested else "valid" if k < held else "train" for k, name in enumerate(order)
    }
    return {split: [one for one in series if split_of[one.name] == split] for split in SPLITS}


def _by_time(series: list[Series], shares: Sequence[float]) -> Parts:
    """Two moments cut all series."""
    moments = np.sort(np.concatenate([one.order for one in series]))
    ends = [moments[min(len(moments) - 1, round(len(moments) * sum(shares[:k]) / 100))] for k in (1, 2)]
    edges = [-np.inf, *ends, np.inf]
    cut = {
        split: [one.part((one.order >= low) & (one.order < high)) for one in series]
        for split, low, high in zip(SPLITS, edges, edges[1:], strict=False)
    }
    return {split: [one for one in found if len(one)] for split, found in cut.items()}


def _corpus(
    name: str, place: Path, reading: Reading, parts: Parts, note: str, files: dict[str, str]
) -> SeriesCorpus:
    for split in SPLITS:
        if not parts[split]:
            raise InputError(
                f"'{place}' leaves the {split} split without a series; it needs at least one row."
            )
    info: dict[str, Json] = {
        "name": name,
        "source": str(place),
        "files": files,
        "note": note,
        "read": reading.plain(),
        "series": {split: len(parts[split]) for split in SPLITS},
        "steps": {split: sum(map(len, parts[split])) for split in SPLITS},
        "sha256": {split: digest(parts[split]) for split in SPLITS},
    }
    return SeriesCorpus({split: parts[split] for split in SPLITS}, info)
