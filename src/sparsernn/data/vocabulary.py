"""Vocabularies: which token has which id, and the file that keeps it."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast, OneOf, Size
from sparsernn.data.text_files import read_text
from sparsernn.numbering.cutting import EOS as EOS
from sparsernn.numbering.cutting import UNKNOWN as UNKNOWN

_ESCAPES = {"\\": "\\\\", " ": "\\s", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# White space, control characters, the byte-order mark and lone surrogates would not survive a text file.
_HIDDEN = re.compile(r"[\\\s\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_UNESCAPES = {escaped[1]: plain for plain, escaped in _ESCAPES.items()}


class Vocabulary:
    """Tokens and their ids: the id of a token is its place in the list.

    Attributes:
        tokens: all tokens, in the order of their ids.
        index: token -> id.
        unknown: id of `<unk>`, or None when the vocabulary has no such token.

    Raises:
        InputError: no token at all, an empty token, or a token given twice.

    Example:
        >>> vocabulary = Vocabulary(["the", "cat", "<unk>"])
        >>> vocabulary.encode(["cat", "the", "dog"])
        tensor([1, 0, 2])
        >>> vocabulary.decode([1, 0])
        ['cat', 'the']
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens: tuple[str, ...] = tuple(tokens)
        self.index: dict[str, int] = {token: number for number, token in enumerate(self.tokens)}
        _check_tokens(self.tokens, self.index)
        self.unknown: int | None = self.index.get(UNKNOWN)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self.index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def encode(self, tokens: Iterable[str]) -> Tensor:
        """Ids of `tokens`, int64, shape (N,). What the vocabulary lacks becomes `<unk>`.

        Raises:
            InputError: a token is not in the vocabulary and there is no `<unk>` to take its place.
        """
        fallback = -1 if self.unknown is None else self.unknown
        get, tokens = self.index.get, list(tokens)
        ids = [get(token, fallback) for token in tokens]
        if fallback < 0 and -1 in ids:
            token = tokens[ids.index(-1)]
            raise InputError(
                f"token {token!r} is not among the {len(self):,} of the vocabulary, which has no {UNKNOWN}."
            )
        return torch.from_numpy(np.array(ids, dtype=np.int64))

    def decode(self, ids: Tensor | Iterable[int]) -> list[str]:
        """Tokens of `ids` (any shape, read in row-major order).

        Raises:
            InputError: an id outside [0, len(self)).
        """
        numbers = ids.flatten().tolist() if isinstance(ids, Tensor) else list(ids)
        for number in numbers:
            if not 0 <= number < len(self):
                raise InputError(
                    f"id {number} is outside the vocabulary; ids run from 0 to {len(self) - 1:,}."
                )
        return [self.tokens[number] for number in numbers]

    def save(self, path: str | Path) -> None:
        """Write one token per line, in the order of the ids, white space and backslashes in it escaped."""
        Path(path).write_bytes(self._file())

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, empty, not UTF-8, or has an empty line, a repeated token or an
                escape that `save` never writes; the sentence names the line.
        """
        return cls.parse(read_text(path), f"'{path}'")

    @classmethod
    def parse(cls, text: str, name: str) -> "Vocabulary":
        """The vocabulary that a file's text is; `name` stands for the file in messages. Errors as of `load`."""
        lines = text.removesuffix("\n").split("\n")
        tokens = [  # most lines are plain, and a vocabulary may have hundreds of thousands
            line if line and "\\" not in line else _unescape(line, f"{name}, line {number}")
            for number, line in enumerate(lines, 1)
        ]
        first: dict[str, int] = {}
        for number, token in enumerate(tokens, 1):
            if first.setdefault(token, number) != number:
                raise InputError(f"{name}, line {number} repeats the token {token!r} of line {first[token]}.")
        return cls(tokens)

    def sha256(self) -> str:
        """Hexadecimal sha256 of the file that `save` writes."""
        return hashlib.sha256(self._file()).hexdigest()

    def as_text(self) -> str:
        """What `save` writes: one token per line, white space and backslashes in it escaped."""
        return "".join(_escape(token) + "\n" for token in self.tokens)

    def _file(self) -> bytes:
        return self.as_text().encode()


def _shuffled(counts: Sequence[int]) -> list[int]:
    numbers = list(range(len(counts)))
    random.Random(0).shuffle(numbers)
    return numbers


ORDERS: dict[str, Callable[[Sequence[int]], list[int]]] = {
    "up": lambda counts: sorted(range(len(counts)), key=lambda number: counts[number]),
    "down": lambda counts: sorted(range(len(counts)), key=lambda number: -counts[number]),
    "random": _shuffled,
}
"""Order -> which token comes first, second ..., given how often each occurs."""

Order = Annotated[str, OneOf(("first", *ORDERS))]
"""Of a vocabulary: "first" leaves it as it is."""


def collect(
    texts: Iterable[Iterable[str]], *, maximum: int | None = None, min_count: int = 1, unknown: bool = False
) -> Vocabulary:
    """Vocabulary of tokenised `texts`, ids in order of first appearance.

    Args:
        texts: token sequences, read one after the other.
        maximum: keep only so many tokens, the most frequent (`<eos>` and `<unk>` always stay and count);
            None: all.
        min_count: tokens rarer than this are left out.
        unknown: give it an `<unk>` even where the texts have none and no token was left out.

    Raises:
        InputError: `maximum` below 3, or `min_count` below 1.

    Example:
        >>> collect([["b", "a", "b", "c", "c", "d"]], maximum=3).tokens
        ('b', 'c', '<unk>')
    """
    check_value("max_vocabulary", maximum, Annotated[int, AtLeast(3)] | None)  # <eos>, <unk> and one token
    check_value("min_count", min_count, Size)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return chosen(counts, maximum=maximum, min_count=min_count, unknown=unknown)


def chosen(
    counts: Mapping[str, int], *, maximum: int | None = None, min_count: int = 1, unknown: bool = False
) -> Vocabulary:
    """As `collect`, of tokens that have been counted already, in order of first appearance.

    >>> chosen({"b": 2, "a": 1, "c": 2, "d": 1}, maximum=3).tokens
    ('b', 'c', '<unk>')
    """
    check_value("max_vocabulary", maximum, Annotated[int, AtLeast(3)] | None)  # <eos>, <unk> and one token
    check_value("min_count", min_count, Size)
    kept = _kept(counts, maximum, min_count, unknown)
    tokens = [token for token in counts if token in kept]
    if UNKNOWN not in kept and (unknown or len(kept) < len(counts)):
        tokens.append(UNKNOWN)
    return Vocabulary(tokens)


@checked
def ordered(vocabulary: Vocabulary, text: Iterable[str], order: Order) -> Vocabulary:
    """The same tokens with other ids, by how often they occur in `text`; the ids so far break ties.

    Args:
        vocabulary: with its ids in order of first appearance.
        text: the tokens of the training text; those that the vocabulary lacks count as `<unk>`.
        order: "first" (ids stay as they are), "up" (the rarest first: those that are not in the text), "down" (the
            most frequent first) or "random" (shuffled, always alike).

    Raises:
        InputError: another order.

    Example:
        >>> ordered(Vocabulary(["b", "a", "c"]), ["b", "b", "a", "b", "a"], "up").tokens
        ('c', 'a', 'b')

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: tokens that only other splits have are the rarest, where it puts them after the most
    frequent one.
    """
    if order == "first":
        return vocabulary
    return reordered(vocabulary, torch.bincount(vocabulary.encode(text), minlength=len(vocabulary)), order)


def reordered(vocabulary: Vocabulary, counts: Tensor, order: Order) -> Vocabulary:
    """As `ordered`, where it is known already how often each id occurs, (V,).

    >>> reordered(Vocabulary(["b", "a"]), torch.tensor([3, 2]), "up").tokens
    ('a', 'b')
    """
    if order == "first":
        return vocabulary
    return Vocabulary([vocabulary.tokens[number] for number in ORDERS[order](counts.tolist())])


def check_vocabulary(expected: Vocabulary, given: Vocabulary) -> None:
    """Raise InputError, with both sizes and the first difference, unless the two vocabularies are the same.

    Example:
        >>> check_vocabulary(Vocabulary(["a", "b"]), Vocabulary(["a", "c", "d"]))
        Traceback (most recent call last):
        ...
        sparsernn.core.errors.InputError: the vocabulary has 3 tokens where 2 are expected; they first differ ...
    """
    if expected.tokens == given.tokens:
        return
    place = _first_difference(expected.tokens, given.tokens)
    wanted = repr(expected.tokens[place]) if place < len(expected) else "no token"
    found = repr(given.tokens[place]) if place < len(given) else "no token"
    raise InputError(
        f"the vocabulary has {len(given):,} tokens where {len(expected):,} are expected; "
        f"they first differ at id {place}: {wanted} is expected, {found} is given."
    )


def _first_difference(a: Sequence[str], b: Sequence[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _kept(counts: Mapping[str, int], maximum: int | None, min_count: int, unknown: bool) -> set[str]:
    always = {EOS, UNKNOWN} & counts.keys()
    common = [token for token, count in counts.items() if count >= min_count and token not in always]
    kept = always | set(common)
    grows = UNKNOWN not in kept and (unknown or len(kept) < len(counts))
    if maximum is None or len(kept) + grows <= maximum:
        return kept
    # A stable sort: among equally frequent tokens the one that came first stays.
    common.sort(key=lambda token: -counts[token])
    return always | set(common[: maximum - len(always | {UNKNOWN})])


def _check_tokens(tokens: Sequence[str], index: Mapping[str, int]) -> None:
    if not tokens:
        raise InputError("the vocabulary is empty; it needs at least one token.")
    if "" in index:
        raise InputError(
            f"token {index['']} of the vocabulary is empty; every token needs at least one character."
        )
    if len(index) < len(tokens):
        repeated = Counter(tokens).most_common(1)[0][0]
        raise InputError(f"the vocabulary has the token {repeated!r} twice; every token must be there once.")


def _escape(token: str) -> str:
    return _HIDDEN.sub(lambda match: _ESCAPES.get(match[0]) or f"\\u{{{ord(match[0]):x}}}", token)


def _unescape(line: str, where: str) -> str:
    if not line:
        raise InputError(f"{where} is empty; every line of a vocabulary file holds one token.")
    parts = line.split("\\")
    plain, rest = [parts[0]], iter(parts[1:])
    for part in rest:
        if part == "":  # two backslashes in a row stand for one; the text after them follows as it is
            plain.append("\\" + next(rest, "\\"))
            if plain[-1] == "\\\\":
                raise InputError(f"{where} ends in a lone backslash; a backslash is written as two.")
        else:
            plain.append(_one_escape(part, where))
    return "".join(plain)


def _one_escape(part: str, where: str) -> str:
    if part[0] in _UNESCAPES:
        return _UNESCAPES[part[0]] + part[1:]
    number, brace, rest = part[2:].partition("}")
    try:
        if not part.startswith("u{") or not brace:
            raise ValueError
        return chr(int(number, 16)) + rest
    except (ValueError, OverflowError):
        raise InputError(
            f"{where} has the unknown escape '\\{part[:8]}'; a backslash is written as two."
        ) from None
