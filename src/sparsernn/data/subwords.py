"""Pieces of words as tokens: byte-level byte-pair encoding, by the package `tokenizers`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed
from sparsernn.data.text_files import read_text
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.numbering.cutting import lines_with_ends

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SIZE = 8192
"""Of a vocabulary that is trained, unless said otherwise: our choice, between characters and words."""
LEAST = 257
"""Every byte is a token, so that every text can be written; one merge is the least there is to learn."""
SMALLEST_COUNT = 2
"""Pairs that occur less often are not merged."""


class Subwords(Vocabulary):
    """A vocabulary of pieces of words that knows how texts are cut into them.

    Args:
        tokens: in the order of their ids.
        tokenizer: the JSON that the package writes.
    """

    def __init__(self, tokens: Sequence[str], tokenizer: str) -> None:
        super().__init__(tokens)
        self.tokenizer = tokenizer


def subwords(tokenizer: str, name: str) -> Subwords:
    """The vocabulary of a tokenizer.

    Args:
        tokenizer: its JSON.
        name: what to call it in messages.

    Raises:
        InputError: not one of these, or with ids that are left out; the package is not installed.
    """
    ids = opened(tokenizer, name).get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError(
            f"{name} leaves out ids or gives one twice; a tokenizer with ids 0, 1, 2 ... is needed."
        )
    return Subwords(tokens, tokenizer)


def read_subwords(path: str | Path) -> Subwords:
    """The vocabulary of a tokenizer.json as the package writes it; errors as of `subwords`."""
    return subwords(read_text(Path(path).expanduser()), f"'{path}'")


def trained(lines: Iterable[str], size: int = SIZE) -> Subwords:
    """Byte-pair encoding of a text: the 256 bytes, and the most frequent pairs of tokens, again and again.

    Args:
        lines: of the training text, each with its newline.
        size: tokens at most, at least 257; a short text has fewer pairs.

    Raises:
        InputError: a smaller size; the package is not installed.

    Source: R. Sennrich, B. Haddow and A. Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016,
    arXiv:1508.07909; on bytes: A. Radford and others, "Language Models are Unsupervised Multitask Learners", 2019.
    """
    if size < LEAST:
        raise InputError(
            f"max_vocabulary is {size}; with subwords it must be at least {LEAST}: 256 bytes and a merge."
        )
    _check_package()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=SMALLEST_COUNT, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(lines, trainer)
    return subwords(made.to_str(), "the tokenizer")


@lru_cache(maxsize=4)
def opened(tokenizer: str, name: str = "the tokenizer of the run") -> "Tokenizer":
    """The package's object for its JSON.

    Raises:
        InputError: not one of these; the package is not installed.
    """
    _check_package()
    from tokenizers import Tokenizer

    try:
        json.loads(tokenizer)
        return Tokenizer.from_str(tokenizer)
    except Exception as error:  # the package raises plain Exception
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{name} is no tokenizer.json of the package tokenizers ({reason}).") from None


def tokens_of(text: str, tokenizer: str) -> list[str]:
    """Subwords of a text, line by line, so that where a text is parted between lines does not matter."""
    found = opened(tokenizer).encode_batch(lines_with_ends(text), add_special_tokens=False)
    return [token for line in found for token in line.tokens]


def text_of_tokens(tokens: Iterable[str], tokenizer: str) -> str:
    """The text of subwords."""
    made = opened(tokenizer)
    ids = (made.token_to_id(token) for token in tokens)
    return str(made.decode([number for number in ids if number is not None], skip_special_tokens=False))


def count_words(text: str) -> int:
    """What stands between white space, and line ends: the tokens of level "word".

    >>> count_words("two words\\nthree\\n")
    5
    """
    return len(text.split()) + text.count("\n")


def text_lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Lines of pieces that end between lines."""
    for block in blocks:
        yield from lines_with_ends(block.decode())


def _check_package() -> None:
    check_installed("a subword vocabulary", "tokenizers", install="'sparsernn[subword]'")
