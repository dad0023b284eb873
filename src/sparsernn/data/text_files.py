"""Reading text files, with every way in which that fails said in one sentence."""

import hashlib
from pathlib import Path

from sparsernn.core.errors import InputError


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


def decode_text(data: bytes, name: str | Path) -> str:
    """UTF-8 bytes as text; a byte-order mark goes, and line ends of any system become a newline.

    Raises:
        InputError: empty or only white space, binary (a zero byte), or not UTF-8; the sentence gives the byte
            offset.

    Example:
        >>> decode_text(b"two" + bytes([13, 10]) + b"lines", "notes.txt").split()
        ['two', 'lines']
    """
    if (zero := data.find(b"\0")) >= 0:
        raise InputError(f"'{name}' is not a text file (zero byte at offset {zero}); UTF-8 text is needed.")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise InputError(f"'{name}' is not UTF-8 text (byte 0x{byte:02x} at offset {error.start}).") from None
    if not text.strip():
        raise InputError(f"'{name}' is empty; a corpus needs text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file; see `decode_text` for the errors."""
    return decode_text(read_bytes(path), path)


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
