"""A file of numbered texts that is mapped into memory: token ids, their vocabulary, and what proves that it is whole.

    ids of every split, one after the other, uint16 or uint32, little-endian
    the vocabulary, as `Vocabulary.save` writes it
    a header in JSON
    64 bytes: `MAGIC`, the header's length, the header's sha256

The end comes last, so a file that is not whole has none.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data.vocabulary import Vocabulary

MAGIC = b"sparsernn ids 1\n"
END = len(MAGIC) + 16 + 32
NARROW = 1 << 16
"""Vocabularies up to this size are numbered in two bytes, larger ones in four."""
DTYPES = ("<u2", "<u4")
BLOCK = 1 << 22
"""Ids that are read at a time."""

Table = NDArray[np.uint32]


class Damaged(InputError):
    """The file is not one of these, or not whole."""


@dataclass(frozen=True)
class NumberedFile:
    """An opened file.

    Attributes:
        path: where it is.
        header: `dtype`, `tokens` {split: count}, `vocabulary` (its size), `vocabulary_bytes`, `vocabulary_sha256`,
            `ids_sha256`, `facts`.
    """

    path: Path
    header: dict[str, Json]

    @property
    def facts(self) -> dict[str, Json]:
        """What the writer wanted to be known."""
        return dict(self.header["facts"])

    def splits(self) -> dict[str, Tensor]:
        """Split -> ids, (tokens,) uint16 or uint32, read from the disk when they are needed."""
        dtype, found, start = np.dtype(self.header["dtype"]), {}, 0
        for split, count in self.header["tokens"].items():
            # "c": what is written to the array stays in memory; torch wants arrays that can be written to
            ids = np.memmap(self.path, dtype, "c", start, (count,)) if count else np.empty(0, dtype)
            found[split] = torch.from_numpy(ids)
            start += count * dtype.itemsize
        return found

    def vocabulary(self) -> Vocabulary:
        """The tokens.

        Raises:
            Damaged: they are not those that were written.
        """
        return Vocabulary.parse(self._words().decode(), f"'{self.path}'")

    def _words(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(_ids_bytes(self.header))
            data = file.read(self.header["vocabulary_bytes"])
        if hashlib.sha256(data).hexdigest() != self.header["vocabulary_sha256"]:
            raise Damaged(f"'{self.path}' is damaged (its vocabulary is another one).")
        return data

    def check(self) -> None:
        """Read everything and raise Damaged unless it is what was written."""
        self._words()
        digest, highest = hashlib.sha256(), 0
        for ids in self.splits().values():
            for block in torch.split(ids, BLOCK):
                data = block.numpy()
                digest.update(data.data)
                highest = max(highest, int(data.max(initial=0)))
        if digest.hexdigest() != self.header["ids_sha256"] or highest >= self.header["vocabulary"]:
            raise Damaged(f"'{self.path}' is damaged (its ids are not those that were written).")


def open_numbered(path: Path) -> NumberedFile:
    """Open a file of numbered texts; its ids are not looked at, see `NumberedFile.check`.

    Raises:
        Damaged: something else, or cut short.
        OSError: it is not there or cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - END, 0))
        end = file.read(END)
        length = int.from_bytes(end[len(MAGIC) : len(MAGIC) + 16], "little")
        if len(end) < END or not end.startswith(MAGIC) or length > size - END:
            raise Damaged(f"'{path}' is no file of numbered texts, or is cut short.")
        file.seek(size - END - length)
        data = file.read(length)
    if hashlib.sha256(data).digest() != end[-32:]:
        raise Damaged(f"'{path}' is damaged (its header has another hash).")
    header = _header(data, path)
    if size != _ids_bytes(header) + header["vocabulary_bytes"] + length + END:
        raise Damaged(f"'{path}' is damaged (it has {size:,} bytes, which is not what its header says).")
    return NumberedFile(path, header)


def _header(data: bytes, path: Path) -> dict[str, Json]:
    try:
        header: dict[str, Json] = json.loads(data)
        counts = [*header["tokens"].values(), header["vocabulary"], header["vocabulary_bytes"]]
        known = header["dtype"] in DTYPES and isinstance(header["facts"], dict)
        if known and all(isinstance(count, int) and count >= 0 for count in counts):
            return header
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Damaged(f"'{path}' is no file of numbered texts that this version can read.")


def _ids_bytes(header: Mapping[str, Json]) -> int:
    return int(sum(header["tokens"].values()) * np.dtype(header["dtype"]).itemsize)


def finish(
    file: IO[bytes],
    table: Table,
    tokens: Mapping[str, int],
    vocabulary: Vocabulary,
    facts: Mapping[str, Json],
) -> None:
    """Turn a file of provisional ids, uint32, into one of these, in place.

    Args:
        file: open for reading and writing in binary mode; it holds the ids and nothing else.
        table: provisional id -> id.
        tokens: split -> how many ids it has, in their order.
        vocabulary: of the ids.
        facts: plain data to be kept.
    """
    dtype = np.dtype(DTYPES[len(vocabulary) > NARROW])
    digest = hashlib.sha256()
    place = 0
    for ids in _blocks(file):
        data = table[ids].astype(dtype).tobytes()
        digest.update(data)
        file.seek(place)  # never ahead of what has been read: ids get no wider
        place += file.write(data)
    words = vocabulary.as_text().encode()
    header = {
        "dtype": dtype.str,
        "tokens": dict(tokens),
        "vocabulary": len(vocabulary),
        "vocabulary_bytes": len(words),
        "vocabulary_sha256": hashlib.sha256(words).hexdigest(),
        "ids_sha256": digest.hexdigest(),
        "facts": dict(facts),
    }
    data = json.dumps(header).encode()
    file.seek(place)
    file.write(words + data + MAGIC + len(data).to_bytes(16, "little") + hashlib.sha256(data).digest())
    file.truncate()
    file.flush()
    os.fsync(file.fileno())


def _blocks(file: IO[bytes]) -> Iterator[Table]:
    place = 0
    while True:
        file.seek(place)
        data = file.read(4 * BLOCK)
        if not data:
            return
        place += len(data)
        yield np.frombuffer(data, np.uint32)
