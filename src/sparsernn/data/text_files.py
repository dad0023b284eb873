"""Reading text files, with every way in which that fails said in one sentence."""

import codecs
import gzip
import hashlib
import re
import zlib
from pathlib import Path

from sparsernn.core.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"

_LINE_END = re.compile("\r+\n|\r")  # \r\r\n: a file of Windows that was sent as text once more


def read_bytes(path: str | Path) -> bytes:
    """Contents of a file.

    Raises:
        InputError: the file does not exist, is a folder, or may not be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist; a text file is needed there.") from None
    except IsADirectoryError:
        raise InputError(f"'{path}' is a folder; a text file is needed there.") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror or error}).") from None


def unpacked(data: bytes, name: str | Path) -> bytes:
    """Bytes as they were before gzip; what is not packed stays as it is.

    Raises:
        InputError: packed, but damaged.

    Example:
        >>> unpacked(gzip.compress(b"text"), "a.gz"), unpacked(b"text", "a")
        (b'text', b'text')
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"'{name}' is damaged ({reason}); an intact gzip file is needed there.") from error


def decode_text(data: bytes, name: str | Path) -> str:
    """UTF-8 bytes as text; a byte-order mark goes, and line ends of any system become a newline.

    Raises:
        InputError: empty or only white space, binary (a zero byte), or not UTF-8; the sentence gives the line and
            the byte offset.

    Example:
        >>> decode_text(b"two" + bytes([13, 10]) + b"lines", "notes.txt").split()
        ['two', 'lines']
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"'{name}' is UTF-16 text (it begins with {data[:2].hex()}); UTF-8 text is needed.")
    if (zero := data.find(b"\0")) >= 0:
        raise InputError(f"'{name}' is not a text file (zero byte at offset {zero}); UTF-8 text is needed.")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f"byte 0x{data[error.start]:02x} at offset {error.start}, line {line}"
        raise InputError(f"'{name}' is not UTF-8 text ({place}); UTF-8 text is needed.") from None
    if not text.strip():
        raise InputError(f"'{name}' is empty; a corpus needs text.")
    return _LINE_END.sub("\n", text) if "\r" in text else text


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, packed with gzip or not; see `decode_text` for the errors."""
    return decode_text(unpacked(read_bytes(path), path), path)


def sha256(text: str | bytes) -> str:
    """Hexadecimal sha256 of bytes, or of a text's UTF-8.

    Example:
        >>> sha256("")[:16]
        'e3b0c44298fc1c14'
    """
    # surrogatepass: a docstring may hold a lone surrogate, which plain UTF-8 refuses.
    return hashlib.sha256(
        text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    ).hexdigest()
