"""Sentences whose words have tags: what a tagger learns from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sparsernn.core.plain import Json
from sparsernn.data.text_files import sha256

PAD = "<pad>"


class Sentence(NamedTuple):
    """Words and, for each, its tag.

    Example:
        >>> Sentence(("Dogs", "bark"), ("NOUN", "VERB")).tags[1]
        'VERB'
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class TaggedCorpus:
    """Tagged sentences to learn from.

    Attributes:
        splits: "train", "valid", "test" -> sentences, none of them empty.
        info: plain data for the run folder: `name`, `source`, `sha256` {split: `digest` of its sentences}, `note`
            (what a reader of the results must know; may be empty), and more from some corpora.
    """

    splits: dict[str, list[Sentence]]
    info: dict[str, Json]


def two_columns(sentences: Iterable[Sentence]) -> str:
    """Sentences as text: a word, a tab and its tag per line, an empty line after each sentence.

    Example:
        >>> two_columns([Sentence(("Dogs", "bark"), ("NOUN", "VERB"))])
        'Dogs\\tNOUN\\nbark\\tVERB\\n\\n'
    """
    lines = ("".join(f"{word}\t{tag}\n" for word, tag in zip(*s, strict=True)) for s in sentences)
    return "".join(f"{line}\n" for line in lines)


def digest(sentences: Iterable[Sentence]) -> str:
    """Hexadecimal sha256 of sentences as `two_columns` writes them: the same for the same words and tags."""
    return sha256(two_columns(sentences))
