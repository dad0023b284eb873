"""Word vectors from a text file of the user's, as GloVe, word2vec and fastText write them."""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.data.text_files import GZIP_MAGIC

SAMPLE = 1000
"""Lines by which the length of the vectors is found: most of them hold a word without a space."""

_GAP = re.compile(r"[ \t]")
_HEAD = re.compile(r"\d+[ \t]+\d+", re.ASCII)


def spellings(word: str) -> tuple[str, ...]:
    """How a word is looked up, in this order: as it is, in lower case, Capitalised, in UPPER case.

    Example:
        >>> spellings("paris")
        ('paris', 'Paris', 'PARIS')
    """
    return tuple(dict.fromkeys((word, word.lower(), word.capitalize(), word.upper())))


def read_vectors(path: str | Path, words: Iterable[str]) -> dict[str, Tensor]:
    """The vectors of those words that a file has, each by the first of its `spellings` that is there.

    Args:
        path: a text file, packed with gzip or not: a word and its numbers in every line, parted by spaces or tabs;
            read line by line, so its size does not matter. A first line with two whole numbers (how many, how long)
            is passed over. A line whose word has spaces in it (". . ." of GloVe 840B) is read as one, and as no word
            that is looked for.
        words: what to look for.

    Returns:
        word -> vector (E,), in the order of `words`; of a word that stands twice the first.

    Raises:
        InputError: the file cannot be read, or has none of the words, or the line of one of them is not a word with
            as many numbers as most lines have, each of them finite in float32; the sentence names the line.

    Source of the format: J. Pennington, R. Socher and C. D. Manning, "GloVe: Global Vectors for Word Representation",
    EMNLP 2014.
    """
    words = list(dict.fromkeys(words))
    wanted = {spelling for word in words for spelling in spellings(word)}
    lines = _lines(Path(path).expanduser(), wanted)
    found: dict[str, Tensor] = {}
    for word in words:
        spelling = next((s for s in spellings(word) if s in lines), None)
        if spelling is not None:
            found[word] = lines[spelling]
    if not found:
        raise InputError(f"'{path}' has none of the {len(words):,} words; word vectors of another language?")
    return found


def _lines(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    try:
        with _opened(path) as file:
            return _found(path, enumerate(file, 1), wanted)
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{path}' cannot be read as word vectors (byte 0x{error.object[error.start]:02x} is not UTF-8 text); a "
            "text file, packed with gzip or not, is needed."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise InputError(
            f"'{path}' cannot be read as word vectors ({reason}); an intact text file is needed."
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file as lines that only \\n ends: words of the big sets hold other line ends."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n")


def _found(path: Path, lines: Iterator[tuple[int, str]], wanted: set[str]) -> dict[str, Tensor]:
    first = list(islice(lines, SAMPLE))
    size = _size(path, first)
    found: dict[str, Tensor] = {}
    for number, line in chain(first[_has_head(first) :], lines):
        word = _GAP.split(line, 1)[0]
        if word in wanted and word not in found:
            vector = _vector(line, size, f"'{path}', line {number},")
            if vector is not None:
                found[word] = vector
    return found


def _has_head(lines: list[tuple[int, str]]) -> bool:
    return bool(lines) and _HEAD.fullmatch(lines[0][1].strip()) is not None


def _size(path: Path, lines: list[tuple[int, str]]) -> int:
    """How many numbers a word has: as many as most lines have fields behind the first."""
    counts = Counter(len(line.split()) - 1 for _, line in lines[_has_head(lines) :] if line.strip())
    size = counts.most_common(1)[0][0] if counts else 0
    if size < 1:
        raise InputError(f"'{path}' has no word vectors; every line must be a word followed by its numbers.")
    if _has_head(lines) and size != int(lines[0][1].split()[1]):
        raise InputError(
            f"'{path}', line 1 says that vectors have {lines[0][1].split()[1]} numbers, but most lines have {size}."
        )
    return size


def _vector(line: str, size: int, where: str) -> Tensor | None:
    """The numbers of a line (E,); None where its word goes on behind the first space."""
    fields = line.split()
    numbers = fields[-size:]
    if len(fields) <= size or (len(fields) > size + 1 and all(map(_is_number, fields[1:]))):
        raise InputError(f"{where} has {len(fields) - 1} numbers, and most lines have {size}.")
    if not all(map(_is_number, numbers)):
        wrong = next(field for field in numbers if not _is_number(field))
        raise InputError(f"{where} is not a word followed by numbers: {wrong[:40]!r}.")
    if len(fields) > size + 1:
        return None
    values = np.array(numbers, dtype=np.float64)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        wrong = numbers[int(np.argmin(np.isfinite(single)))]
        raise InputError(f"{where} has the number {wrong}; every number must be finite, below 3.4e38.")
    return torch.from_numpy(single)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python's own way to write 1_000
