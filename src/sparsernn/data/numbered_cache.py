"""The cache of numbered texts: what is in it, what has been seen before, and how it is cleared.

CACHE/numbered/seen/HASH.json      a text file's sha256, good as long as the file's size, times and inode stay
CACHE/numbered/HASH/HASH.ids       texts of this content, cut in this style, in the numbers of one vocabulary
CACHE/numbered/HASH/HASH.also      another name of such a file, which also says when it was proven whole
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import PART, replacing, sole_user
from sparsernn.data.download import cache_folder
from sparsernn.data.numbered_file import Damaged, NumberedFile, open_numbered
from sparsernn.data.text_parts import Part, digest, file_stat

SETTLED = 2_000_000_000
"""Nanoseconds: two changes that follow each other faster may leave a file with one time."""

_NAME = re.compile(r"[0-9a-f]{32}")


def numbered_folder() -> Path:
    """Where numbered texts are kept: `numbered` in the cache."""
    return cache_folder() / "numbered"


def key(*facts: Json) -> str:
    """A name for plain data: the first 32 digits of the sha256 of its JSON.

    >>> len(key("a", {"b": 1})), key(1) == key("1")
    (32, False)
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def digest_of(part: Part, raw: bool = False) -> str:
    """As `text_parts.digest`, without reading a file that has been read before and has not changed since."""
    place = numbered_folder() / "seen" / f"{key(str(part.path.resolve()), part.start, part.stop, raw)}.json"
    known, now = _record(place), part.stat()
    if known.get("stat") == now and re.fullmatch("[0-9a-f]{64}", str(known.get("sha256"))):
        return str(known["sha256"])
    found = digest(part, raw)
    if part.stat() == now:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with sole_user(place.parent, wait=True):
                sweep(place.parent)
                _remember(place, {"path": str(part.path), "stat": now, "sha256": found}, max(now[3:]))
    return found


def found(folder: Path, name: str) -> NumberedFile | None:
    """The file of a name in a folder of the cache, proven whole; None where there is none that is.

    It is read as a whole once, and again only where the file has changed since.
    """
    try:
        also = _record(folder / f"{name}.also")
        real = str(also.get("file", name))
        path = folder / f"{real}.ids"
        if not _NAME.fullmatch(real):
            return None
        opened, now = open_numbered(path), file_stat(path)
        if also.get("stat") != now:
            opened.check()
            call(folder, name, real)
        return opened
    except (OSError, InputError):  # Damaged among them
        return None


def call(folder: Path, name: str, real: str) -> None:
    """Give a file that is whole another name, or its own; nothing happens where the cache cannot be written."""
    now = file_stat(folder / f"{real}.ids")
    _remember(folder / f"{name}.also", {"file": real, "stat": now}, 0)


def _record(place: Path) -> dict[str, Json]:
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(place: Path, facts: Mapping[str, Json], changed: int) -> None:
    if time.time_ns() - changed < SETTLED:
        return
    with suppress(OSError), replacing(place) as beside:
        beside.write_text(json.dumps(facts), encoding="utf-8")


class Kept(NamedTuple):
    """A numbered text of the cache.

    Attributes:
        source: where the text was.
        tokens: of all splits.
        vocabulary: types.
        bytes: on the disk.
        path: the file.
    """

    source: str
    tokens: int
    vocabulary: int
    bytes: int
    path: Path


def kept() -> list[Kept]:
    """What the cache holds, the largest first; files that are not whole have no source."""
    rows = [_kept(path) for path in numbered_folder().glob("*/*.ids")]
    return sorted(rows, key=lambda row: (-row.bytes, str(row.path)))


def _kept(path: Path) -> Kept:
    try:
        header = open_numbered(path).header
        facts = header["facts"]
        return Kept(
            facts["source"],
            sum(header["tokens"].values()),
            header["vocabulary"],
            path.stat().st_size,
            path,
        )
    except (OSError, Damaged, KeyError):
        return Kept("", 0, 0, path.stat().st_size, path)


def clear() -> int:
    """Remove all numbered texts, and what unfinished ones have left; returns how many bytes that were.

    Runs that read one of them go on: what is mapped into memory stays there until they end.

    Raises:
        InputError: the cache cannot be written.
    """
    place = numbered_folder()
    freed = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise InputError(f"'{place}' cannot be cleared ({error.strerror or error}).") from None
    return freed


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder that nobody else works in."""
    for path in folder.glob(f".*{PART}"):
        path.unlink(missing_ok=True)
