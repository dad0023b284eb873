"""The tokens of one piece of a text as numbers: 0 for the first token, 1 for the next one that is another ..."""

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsernn.numbering import cutting

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CODES = 0x110000
"""One more than the last Unicode character."""

Ids = NDArray[np.uint32]
Counts = NDArray[np.int64]


class Numbered(NamedTuple):
    """A piece of a text.

    Attributes:
        tokens: each once, in the order in which they appear.
        counts: how often each of them occurs, (len(tokens),).
        ids: the piece, every token as its place in `tokens`.
    """

    tokens: list[str]
    counts: Counts
    ids: Ids


def numbered(piece: bytes, style: str, lowercase: bool = False, tokenizer: str = "") -> Numbered:
    """Number one piece of `pieces_of`.

    Args:
        piece: UTF-8, or any bytes for the style "bytes".
        style: of `data.Style`.
        lowercase: put the text into lower case first.
        tokenizer: JSON of the package `tokenizers`, for the style "subword".

    Example:
        >>> numbered(b"a b a\\n", "whitespace").tokens, numbered(b"a b a\\n", "whitespace").ids.tolist()
        (['a', 'b', '<eos>'], [0, 1, 0, 2])
    """
    if style == "bytes":
        return _by_code(np.frombuffer(piece, np.uint8))
    text = piece.decode("utf-8")
    if lowercase:
        text = text.lower()
    if style == "characters":
        return _by_code(np.frombuffer(text.encode("utf-32-le"), np.uint32))
    if style == "subword":
        return _subwords(text, tokenizer)
    return by_token(TOKENS[style](text))


def _subwords(text: str, tokenizer: str) -> Numbered:
    """By the package's own numbers, of which few pieces have all."""
    made = _opened(tokenizer)
    lines = made.encode_batch_fast(cutting.lines_with_ends(text), add_special_tokens=False)
    found = _by_code(np.fromiter((number for line in lines for number in line.ids), np.uint32))
    return found._replace(tokens=[str(made.id_to_token(ord(token))) for token in found.tokens])


@lru_cache(maxsize=1)
def _opened(tokenizer: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer)


def by_token(tokens: list[str]) -> Numbered:
    """Number a list of tokens."""
    index: defaultdict[str, int] = defaultdict(count().__next__)
    ids = np.fromiter(map(index.__getitem__, tokens), np.uint32, len(tokens))
    return Numbered(list(index), np.bincount(ids, minlength=len(index)), ids)


def _by_code(codes: NDArray[np.uint8] | NDArray[np.uint32]) -> Numbered:
    """The same where tokens are characters: in a few passes over arrays."""
    first = np.full(CODES if codes.itemsize > 1 else 256, len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of a code that is there twice the last one stays
    found = np.flatnonzero(first < len(codes))
    found = found[np.argsort(first[found])]
    table = np.empty(len(first), np.uint32)
    table[found] = np.arange(len(found))
    counts = np.bincount(codes, minlength=len(first))[found]
    return Numbered([chr(code) for code in found.tolist()], counts, table[codes])


def _words(text: str) -> list[str]:
    """A piece may end within a line: only a newline is an `<eos>`."""
    return text.replace("\n", f" {cutting.EOS} ").split()


TOKENS: dict[str, Callable[[str], list[str]]] = {
    "whitespace": _words,
    "prose": cutting.prose,
    "penn_characters": cutting.penn_characters,
}
"""Style -> the tokens of a piece; characters and bytes need no list of them."""
