"""Texts that are read block by block, because they may be larger than the memory."""

import codecs
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from sparsernn.core.errors import InputError
from sparsernn.data.text_files import GZIP_MAGIC

BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """A text file, or a stretch of one.

    Attributes:
        path: the file, packed with gzip or not.
        start, stop: bytes of what it holds, unpacked; None: to its end.
    """

    path: Path
    start: int = 0
    stop: int | None = None

    def blocks(self) -> Iterator[bytes]:
        """What it holds, unpacked.

        Raises:
            InputError: it cannot be read, or is packed and damaged.
        """
        try:
            with _opened(self.path) as file:
                file.seek(self.start)
                left = float("inf") if self.stop is None else self.stop - self.start
                while left > 0 and (block := file.read(int(min(left, BLOCK)))):
                    left -= len(block)
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = str(error).rstrip(".")
            raise InputError(
                f"'{self.path}' is damaged ({reason}); an intact gzip file is needed there."
            ) from None
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read ({error.strerror or error}).") from None

    def size(self) -> int:
        """Bytes that it holds, as far as that is known: those of the file where it is packed."""
        return (self.stat()[2] if self.stop is None else self.stop) - self.start

    def stat(self) -> list[int]:
        """What changes when the file does.

        Raises:
            InputError: it is not there.
        """
        return file_stat(self.path)


def file_stat(path: Path) -> list[int]:
    """Device, inode, size and times of a file: equal for two moments between which nobody has written to it.

    The time at which its inode was changed is among them, which nobody can set back.

    Raises:
        InputError: it is not there.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror or error}).") from None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file


def digest(part: Part, raw: bool = False) -> str:
    """Hexadecimal sha256 of what a part holds, unpacked; a part that is no text is refused on the way.

    Args:
        part: read to its end.
        raw: any bytes will do.

    Raises:
        InputError: empty; unless `raw`, also only white space, binary (a zero byte) or not UTF-8, with line and byte
            offset, as `text_files.decode_text` has it.
    """
    found, check = hashlib.sha256(), _Bytes(part.path) if raw else _Text(part.path)
    for block in part.blocks():
        found.update(block)
        check.read(block)
    check.end()
    return found.hexdigest()


class _Bytes:
    """Whether there is something."""

    def __init__(self, path: Path) -> None:
        self.path, self.filled = path, False

    def read(self, block: bytes) -> None:
        self.filled = True

    def end(self) -> None:
        if not self.filled:
            raise InputError(f"'{self.path}' is empty; a corpus needs text.")


class _Text(_Bytes):
    """Whether blocks are UTF-8 text."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.offset, self.lines = 0, 1

    def read(self, block: bytes) -> None:
        if not self.offset and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(
                f"'{self.path}' is UTF-16 text (it begins with {block[:2].hex()}); UTF-8 text is needed."
            )
        if (zero := block.find(b"\0")) >= 0:
            place = self.offset + zero
            raise InputError(
                f"'{self.path}' is not a text file (zero byte at offset {place}); UTF-8 text is needed."
            )
        self._decode(block)
        self.offset += len(block)
        self.lines += block.count(b"\n")

    def end(self) -> None:
        self._decode(b"", final=True)
        super().end()

    def _decode(self, block: bytes, final: bool = False) -> None:
        held = len(self.decoder.getstate()[0])
        try:
            text = self.decoder.decode(block, final)
        except UnicodeDecodeError as error:
            read, first = error.object, self.offset - held
            line = self.lines + read.count(b"\n", 0, error.start)
            place = f"byte 0x{read[error.start]:02x} at offset {first + error.start}, line {line}"
            raise InputError(f"'{self.path}' is not UTF-8 text ({place}); UTF-8 text is needed.") from None
        self.filled = self.filled or bool(text.strip("\ufeff").strip())
