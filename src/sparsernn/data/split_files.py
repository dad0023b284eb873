"""Which file of a folder is which split: one list of names for every kind of corpus."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "development", "testa"),
    "test": ("test", "testing", "testb"),
}
"""Split -> the words that a file of it has in its name; testa and testb are CoNLL-2003's."""

PACKED = ".gz"

_WORDS = re.compile(r"[^\W_]+")
_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words}


class _Candidate(NamedTuple):
    """A file and how well its name fits; the smallest rank is read."""

    rank: tuple[int, ...]
    file: Path


def split_of(name: str) -> str:
    """The split that a file's name says, by its last word that is one of `SPLIT_NAMES`; "" where none is.

    Example:
        >>> [split_of(name) for name in ("en_ewt-ud-dev.conllu", "eng.testa", "pretrain.txt", "latest.txt")]
        ['valid', 'valid', '', '']
    """
    found = [word for word in _WORDS.findall(name.lower()) if word in _OF]
    return _OF[found[-1]] if found else ""


def find_split(place: Path, split: str, endings: Sequence[str], holds: str = "text") -> Path:
    """The file of one split in a folder: one whose name has a word for that split, as a whole word.

    Among several the first of `endings` decides, then the fewest words in the name (train.txt before old.train.txt),
    then the order of `SPLIT_NAMES`, then a file that is not packed before the same one packed.

    Args:
        place: the folder.
        split: "train", "valid" or "test".
        endings: of the names that count, the preferred one first; "" stands for names without another ending
            (`eng.train`). Each may be followed by .gz.
        holds: what the files hold, for messages.

    Raises:
        InputError: no folder, no such file, or two that fit equally well; the sentence names them.
    """
    if not place.is_dir():
        raise InputError(
            f"'{place}' is not a folder; a folder with train, valid and test files of {holds} is needed."
        )
    found = sorted(_candidates(place, split, endings))
    if not found:
        shown = ", ".join(ending or "nothing" for ending in endings)
        raise InputError(
            f"'{place}' has no {split} file; its name must have the word {_or(SPLIT_NAMES[split])} and end in "
            f"{shown}, also packed as {PACKED}."
        )
    same = [c.file.name for c in found if c.rank == found[0].rank]
    if len(same) > 1:
        raise InputError(
            f"'{place}' has {len(same)} files that could be the {split} split, {', '.join(same[:4])}; leave one "
            "of them there."
        )
    return found[0].file


def origins(splits: object) -> dict[str, str]:
    """Which file each split is read from: what the setting `splits` says, else its own.

    Raises:
        InputError: no mapping between train, valid and test.

    Example:
        >>> origins({"train": "valid"})
        {'train': 'valid', 'valid': 'valid', 'test': 'test'}
    """
    given = {} if splits is None else splits
    if not isinstance(given, Mapping):
        raise InputError(f"splits is {splits!r}; it must be a mapping such as {{train: valid}}.")
    for split, origin in given.items():
        if split not in SPLITS or origin not in SPLITS:
            raise InputError(f"splits says {split!r}: {origin!r}; both must be train, valid or test.")
    return {split: given.get(split, split) for split in SPLITS}


def _candidates(place: Path, split: str, endings: Sequence[str]) -> list[_Candidate]:
    found = []
    for file in place.iterdir():
        ending = _ending(file.name, endings)
        if ending is not None and split_of(file.name) == split and file.is_file():
            words = _WORDS.findall(file.name.lower().removesuffix(PACKED).removesuffix(ending))
            spelling = next(k for k, name in enumerate(SPLIT_NAMES[split]) if name in words)
            packed = file.name.lower().endswith(PACKED)
            rank = (endings.index(ending), len(words), spelling, int(packed))
            found.append(_Candidate(rank, file))
    return found


def _ending(name: str, endings: Collection[str]) -> str | None:
    """Which of the endings a name has; "" where its last part is the word for a split; None: another one."""
    bare = name.lower().removesuffix(PACKED)
    suffix = Path(bare).suffix
    if suffix in endings and suffix:
        return suffix
    plain = not suffix or suffix[1:] in _OF
    return "" if plain and "" in endings else None


def _or(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]
