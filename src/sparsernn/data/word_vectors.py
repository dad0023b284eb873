"""Word vectors from a text file of the user's, as GloVe and others write them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsernn.core.errors import InputError


def spellings(word: str) -> tuple[str, ...]:
    """How a word is looked up, in this order: as it is, in lower case, Capitalised, in UPPER case.

    Example:
        >>> spellings("paris")
        ('paris', 'Paris', 'PARIS')
    """
    return tuple(dict.fromkeys((word, word.lower(), word.capitalize(), word.upper())))


def read_vectors(path: str | Path, words: Iterable[str]) -> dict[str, Tensor]:
    """The vectors of those words that a file has, each by the first of its `spellings` that is there.

    Args:
        path: a text file, a word and its numbers in every line, separated by one space; read line by line, so its
            size does not matter. A first line with two numbers (how many, how long) is passed over.
        words: what to look for.

    Returns:
        word -> vector (E,), in the order of `words`.

    Raises:
        InputError: the file cannot be read, has a line that is not a word with numbers, or vectors of different
            lengths, or has none of the words.

    Source of the format: J. Pennington, R. Socher and C. D. Manning, "GloVe: Global Vectors for Word Representation",
    EMNLP 2014.
    """
    words = list(dict.fromkeys(words))
    wanted = {spelling for word in words for spelling in spellings(word)}
    lines = _lines(Path(path).expanduser(), wanted)
    found: dict[str, Tensor] = {}
    for word in words:
        spelling = next((s for s in spellings(word) if s in lines), None)
        if spelling is not None:
            found[word] = lines[spelling]
    if not found:
        raise InputError(f"'{path}' has none of the {len(words):,} words; word vectors of another language?")
    return found


def _lines(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    size = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, _, numbers = line.rstrip().partition(" ")
                if word in wanted and not (number == 1 and " " not in numbers):
                    found.setdefault(word, _vector(numbers, size, f"'{path}', line {number},"))
                    size = len(found[word])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as word vectors ({error}).") from None
    return found


def _vector(numbers: str, size: int, where: str) -> Tensor:
    try:
        vector = torch.from_numpy(np.array(numbers.split(" "), dtype=np.float32))
    except ValueError:
        raise InputError(f"{where} is not a word followed by numbers: {numbers[:40]!r}.") from None
    if size and len(vector) != size:
        raise InputError(f"{where} has {len(vector)} numbers, and the lines before have {size}.")
    return vector
