"""Splitting one text by its content: no paragraph twice, and an edit moves only what was edited."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sparsernn.core.errors import InputError
from sparsernn.data.text_styles import lines_of, paragraphs_of, prose_tokens

SPLITS = ("train", "valid", "test")

# Shares of the test and the validation split; what is left is trained on.
TEST_SHARE = 0.1
VALID_SHARE = 0.1

# Below this many different paragraphs the shares would be off by much, so a text is split by lines instead.
FEW_PARAGRAPHS = 20

Key = Callable[[str], str]


@dataclass(frozen=True)
class Split:
    """A text in three parts.

    Attributes:
        texts: "train", "valid", "test" -> text.
        unit: what was kept whole, "paragraph" or "line".
        duplicates: how many repeated units were removed before splitting.
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
            f"the text has {len(places)} different lines; it needs at least 3, one for each split."
        )
    order = sorted(places, key=lambda key: (places[key], key))
    tested = sum(place < TEST_SHARE for place in places.values())
    held_out = sum(place < TEST_SHARE + VALID_SHARE for place in places.values())
    tested = min(max(tested, 1), len(order) - 2)
    held_out = min(max(held_out, tested + 1), len(order) - 1)
    names = ["test"] * tested + ["valid"] * (held_out - tested) + ["train"] * (len(order) - held_out)
    return dict(zip(order, names, strict=True))


def split_by_content(text: str, *, unit: str = "auto", key: Key = same_words) -> Split:
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
    if unit not in ("auto", "paragraph", "line"):
        raise InputError(f"unit is '{unit}'; it must be auto, paragraph or line.")
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
