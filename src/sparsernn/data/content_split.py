"""Splitting one text by its content: no paragraph twice, and an edit moves only what was edited."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Entries, Positive, Sum
from sparsernn.data.text_styles import lines_of, paragraphs_of, prose_tokens

SPLITS = ("train", "valid", "test")
Shares = Annotated[Sequence[Positive], Entries(len(SPLITS), len(SPLITS)), Sum(100)]

# Shares of the test and the validation split; what is left is trained on.
TEST_SHARE = 0.1
VALID_SHARE = 0.1

# Below this many different paragraphs the shares would be off by much, so a text is split by lines instead.
FEW_PARAGRAPHS = 20

# Per cent of train, valid and test where a text is cut as it stands: how text8 and enwik8 are split.
SHARES = (90, 5, 5)

# From so many characters on a text of one or two lines is cut inside them.
LONG_TEXT = 1_000

Key = Callable[[str], str]

_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Split:
    """A text in three parts.

    Attributes:
        texts: "train", "valid", "test" -> text.
        unit: what was kept whole, "paragraph" or "line"; "contiguous" where the text was cut as it stands.
        duplicates: how many repeated units were removed before splitting; none of a text that is cut as it stands.
    """

    texts: dict[str, str]
    unit: str
    duplicates: int


def same_words(text: str) -> str:
    """A text without regard to its white space: the key by which repetitions are found.

    Example:
        >>> same_words("  a\\n b")
        'a b'
    """
    return " ".join(text.split())


def same_prose(text: str) -> str:
    """A text without regard to white space, case and numbers: equal for two texts with equal prose tokens.

    Example:
        >>> same_prose("New in\\n  version 3.5.")
        'new in version N .'
    """
    return " ".join(prose_tokens(text.lower()))


def distinct(units: Iterable[str], key: Key = same_words) -> dict[str, str]:
    """The first of every group of units that have the same key, in their order: key -> unit.

    Units whose key is empty are left out.
    """
    found: dict[str, str] = {}
    for unit in units:
        if name := key(unit):
            found.setdefault(name, unit)
    return found


def position(key: str) -> float:
    """Where a key falls in [0, 1): the first eight bytes of its sha256 as a fraction."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(keys: Iterable[str]) -> dict[str, str]:
    """The split of every key, by nothing but the key's own content: key -> "train", "valid" or "test".

    A key in [0, 0.1) is tested on, in [0.1, 0.2) validated on, the rest is trained on. Where a text is so
    small that a part would stay empty, the key that is nearest to it in order moves there.

    Raises:
        InputError: fewer than three keys.

    Example:
        >>> sorted(assign(["a", "b", "c"]).values())
        ['test', 'train', 'valid']
    """
    places = {key: position(key) for key in keys}
    if len(places) < 3:
        raise InputError(
            f"the text has {len(places)} different lines; it needs at least 3, one for each split (unit: contiguous "
            "cuts inside a line)."
        )
    order = sorted(places, key=lambda key: (places[key], key))
    tested = sum(place < TEST_SHARE for place in places.values())
    held_out = sum(place < TEST_SHARE + VALID_SHARE for place in places.values())
    tested = min(max(tested, 1), len(order) - 2)
    held_out = min(max(held_out, tested + 1), len(order) - 1)
    names = ["test"] * tested + ["valid"] * (held_out - tested) + ["train"] * (len(order) - held_out)
    return dict(zip(order, names, strict=True))


@checked
def split_by_content(
    text: str, *, unit: Literal["auto", "paragraph", "line"] = "auto", key: Key = same_words
) -> Split:
    """Split a text about 80 / 10 / 10 by the hash of its paragraphs, repetitions removed first.

    Args:
        text: any text.
        unit: "paragraph" (between blank lines), "line", or "auto": paragraphs, or lines where the text has
            fewer than 20 different paragraphs.
        key: two units with the same key are the same; the first of them stays.

    Returns:
        The three texts, each with its units in their original order.

    Raises:
        InputError: another `unit`, or fewer than three different units.
    """
    units = paragraphs_of(text)
    if unit == "line" or (unit == "auto" and len(distinct(units, key)) < FEW_PARAGRAPHS):
        return split_units([line for line in lines_of(text) if line.strip()], "line", key)
    return split_units(units, "paragraph", key)


def split_units(units: list[str], unit: str = "paragraph", key: Key = same_words) -> Split:
    """Split a text that is already in pieces; see `split_by_content`."""
    found = distinct(units, key)
    names = assign(found)
    gap = "\n" if unit == "line" else "\n\n"
    texts = {split: gap.join(u for k, u in found.items() if names[k] == split) + "\n" for split in SPLITS}
    return Split(texts, unit, len(units) - len(found))


def is_one_line(text: str) -> bool:
    """Whether a text is long and has fewer lines than there are splits.

    Example:
        >>> is_one_line("word " * 1000), is_one_line("word\\n" * 1000), is_one_line("word")
        (True, False, False)
    """
    return len(text) >= LONG_TEXT and text.strip("\n").count("\n") < len(SPLITS) - 1


def check_shares(shares: Sequence[float]) -> None:
    """Raise InputError unless `shares` are three positive numbers that make 100 in sum.

    >>> check_shares([80, 10, 10])
    """
    check_value("shares", shares, Shares)


def split_contiguous(text: str, shares: Sequence[float] = SHARES, between_words: bool = True) -> Split:
    """Cut a text into three stretches, one after the other; nothing is removed, so repetitions may leak.

    Args:
        text: any text.
        shares: of its characters: train, valid and test in per cent.
        between_words: cut at the next white space, so that no word is torn.

    Raises:
        InputError: wrong shares, or a text so short that a part would be empty.

    Example:
        >>> split_contiguous("aa bb cc dd ee ff", [50, 25, 25]).texts
        {'train': 'aa bb cc', 'valid': ' dd ee', 'test': ' ff'}
        >>> split_contiguous("abcdefgh", [50, 25, 25], between_words=False).texts["valid"]
        'ef'
    """
    check_shares(shares)
    cuts = [0, *(round(len(text) * sum(shares[:k]) / 100) for k in (1, 2)), len(text)]
    if between_words:
        cuts[1:3] = [_next_space(text, cut) for cut in cuts[1:3]]
    texts = {split: text[a:b] for split, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)}
    for split, part in texts.items():
        if not part.strip():
            raise InputError(
                f"the text has {len(text):,} characters, too few to be cut into {list(shares)} per cent: its {split} "
                "part would be empty; more text or other shares are needed."
            )
    return Split(texts, "contiguous", 0)


def _next_space(text: str, start: int) -> int:
    found = _SPACE.search(text, start)
    return found.start() if found else len(text)
