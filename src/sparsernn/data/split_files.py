"""Which file of a folder is which split: one list of names for every kind of corpus."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "development", "testa"),
    "test": ("test", "testing", "testb"),
}
"""Split -> the words that a file of it has in its name; testa and testb are CoNLL-2003's."""

DATA_VARIABLE = "SPARSERNN_DATA"
"""Of the environment: a folder that has corpora in folders of their names."""
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


def given_place(path: str | Path | None, data_dir: str | Path | None) -> Path | None:
    """Where a corpus is said to lie: `data_dir` counts before `path`; None where nobody says."""
    given = path if data_dir is None else data_dir
    return None if given is None else Path(given).expanduser()


def place_of(kind: str, path: str | Path | None, data_dir: str | Path | None) -> Path:
    """The same for a corpus that has to be told.

    >>> place_of("folder", None, None)
    Traceback (most recent call last):
    sparsernn.core.errors.InputError: the corpus 'folder' has no path; give one as task.corpus.path or with --data.
    """
    place = given_place(path, data_dir)
    if place is None:
        raise InputError(f"the corpus '{kind}' has no path; give one as task.corpus.path or with --data.")
    return place


def named_place(name: str, path: str | Path | None, data_dir: str | Path | None) -> Path | None:
    """The same for a corpus with a folder of its name: in the place that is said, else in $SPARSERNN_DATA."""
    place = given_place(path, data_dir)
    if place is not None:
        return place / name if (place / name).is_dir() else place
    return own_folder(name)


def own_folder(name: str) -> Path | None:
    """The folder of a corpus in $SPARSERNN_DATA, where there is one."""
    variable = os.environ.get(DATA_VARIABLE)
    found = Path(variable).expanduser() / name if variable else None
    return found if found and found.is_dir() else None


SplitName = Literal["train", "valid", "test"]


class Origins(TypedDict, total=False):
    """Which file a split is read from where it is not its own."""

    train: SplitName
    valid: SplitName
    test: SplitName


def origins(splits: Mapping[str, str] | None) -> dict[str, str]:
    """Which file each split is read from: what the setting `splits` says, else its own.

    Raises:
        InputError: no mapping between train, valid and test.

    Example:
        >>> origins({"train": "valid"})
        {'train': 'valid', 'valid': 'valid', 'test': 'test'}
    """
    check_value("splits", splits, Origins | None)
    return {split: split for split in SPLITS} | dict(splits or {})


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
