"""A long text in pieces that are cut into tokens one by one, to the same tokens as the whole text."""

import re
from collections.abc import Callable, Iterable, Iterator

PIECE = 1 << 22
"""Bytes of a piece, or as many more as it takes to the next place to cut: 4 MB are 40 MB as a list of words."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_LINE_END = re.compile(rb"\r+\n|\r")  # as `data.text_files` reads it

Cut = Callable[[bytes], int]
"""Where a piece may end: the last such place in what has been read, 0 if there is none."""


def after_space(read: bytes) -> int:
    """Behind a space or a newline.

    >>> after_space(b"two words")
    4
    """
    return max(read.rfind(b" "), read.rfind(b"\n")) + 1


def after_line(read: bytes) -> int:
    """Behind a newline."""
    return read.rfind(b"\n") + 1


def after_paragraph(read: bytes) -> int:
    """Behind an empty line.

    >>> after_paragraph(b"a b\\n\\nc")
    5
    """
    found = read.rfind(b"\n\n")
    return found + 2 if found >= 0 else 0


def before_character(read: bytes) -> int:
    """Before the last character, of which some bytes may not have been read yet.

    >>> before_character("aé".encode()), before_character("aé".encode()[:2])
    (1, 1)
    """
    last = len(read) - 1
    while last > 0 and read[last] & 0xC0 == 0x80:
        last -= 1
    return max(last, 0)


CUTS: dict[str, Cut] = {
    "whitespace": after_space,
    "prose": after_paragraph,
    "characters": before_character,
    "bytes": len,
    "subword": after_line,
    "penn_characters": after_line,
}
"""Style -> where its texts may be cut."""


def cut_of(style: str, lowercase: bool) -> Cut:
    """Where texts of a style may be cut; what a capital becomes may depend on the letters beside it.

    >>> cut_of("characters", True) is after_space
    True
    """
    return after_space if lowercase and style == "characters" else CUTS[style]


def as_text(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What a text file holds, as UTF-8: without byte-order mark, every line end a newline.

    >>> list(as_text([BYTE_ORDER_MARK + b"a" + bytes([13]), bytes([10]) + b"b"]))
    [b'a', b'\\nb', b'']
    """
    held, begun = b"", False
    for block in blocks:
        read = held + block
        if not begun and len(read) >= len(BYTE_ORDER_MARK):
            begun, read = True, read.removeprefix(BYTE_ORDER_MARK)
        whole = len(read) if begun else 0
        while whole and read[whole - 1] == ord("\r"):  # the newline may be in the next block
            whole -= 1
        held = read[whole:]
        yield _LINE_END.sub(b"\n", read[:whole])
    yield _LINE_END.sub(b"\n", held)


def pieces(blocks: Iterable[bytes], cut: Cut, size: int) -> Iterator[bytes]:
    """A text, read in blocks, in pieces of about `size` bytes, none of them empty.

    >>> list(pieces([b"one two ", b"three"], after_space, size=5))
    [b'one two ', b'three']
    """
    held: list[bytes] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length < size:
            continue
        read = b"".join(held)
        place = cut(read)
        if place:
            yield read[:place]
        held, length = [read[place:]], len(read) - place
    if length:
        yield b"".join(held)


def closed(found: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces; the last one ends in a newline.

    >>> list(closed([b"a ", b"b"]))
    [b'a ', b'b\\n']
    """
    last = b""
    for piece in found:
        if last:
            yield last
        last = piece
    yield last if last.endswith(b"\n") else last + b"\n"


def pieces_of(blocks: Iterable[bytes], style: str, lowercase: bool) -> Iterator[bytes]:
    """A text file, read in blocks, in pieces that `piece_numbers.numbered` turns into the tokens of the whole."""
    if style == "bytes":
        return pieces(blocks, len, PIECE)
    found = pieces(as_text(blocks), cut_of(style, lowercase), PIECE)
    return closed(found) if style in ("whitespace", "penn_characters") else found
