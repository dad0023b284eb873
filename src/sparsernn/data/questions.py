"""Questions whose answers stand in a paragraph: what a reader learns from."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sparsernn.core.plain import Json
from sparsernn.data.text_files import sha256

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Answer(NamedTuple):
    """An answer and where it stands.

    Attributes:
        start: place of its first character in the paragraph; -1 where it does not stand there as it is.
        text: as a person marked it.
    """

    start: int
    text: str


class Question(NamedTuple):
    """A question and the answers that count as right, at least one."""

    id: str
    text: str
    answers: tuple[Answer, ...]


class Paragraph(NamedTuple):
    """A text and what is asked about it; `title` names the article that it is from."""

    title: str
    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class QuestionCorpus:
    """Paragraphs with questions to learn from.

    Attributes:
        splits: "train", "valid", "test" -> paragraphs, none of them empty.
        info: plain data for the run folder: `name`, `source`, `sha256` {split: `digest` of its paragraphs}, `note`
            (what a reader of the results must know; may be empty), and more from some corpora.
    """

    splits: dict[str, list[Paragraph]]
    info: dict[str, Json]


def token_spans(text: str) -> list[tuple[int, int]]:
    """Where the tokens of a text stand, (first character, one past the last): words, and every other sign alone.

    Example:
        >>> text = "It costs $3.50, doesn't it?"
        >>> " ".join(text[a:b] for a, b in token_spans(text))
        "It costs $ 3 . 50 , doesn ' t it ?"
    """
    return [match.span() for match in _TOKEN.finditer(text)]


def words_of(answer: Answer, spans: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last token that share a character with an answer; None where there is none.

    Example:
        >>> words_of(Answer(4, "bigger do"), token_spans("The bigger dogs bark"))
        (1, 2)
    """
    end = answer.start + len(answer.text)
    touched = [k for k, (a, b) in enumerate(spans) if a < end and b > answer.start]
    return (touched[0], touched[-1]) if answer.start >= 0 and touched else None


def text_of(first: int, last: int, text: str, spans: Sequence[tuple[int, int]]) -> str:
    """What stands from token `first` to token `last`, both included, as it is written.

    Example:
        >>> text = "The bigger dogs bark."
        >>> text_of(3, 4, text, token_spans(text))
        'bark.'
    """
    return text[spans[first][0] : spans[last][1]]


def digest(paragraphs: Iterable[Paragraph]) -> str:
    """Hexadecimal sha256 of paragraphs: the same for the same texts, questions and answers in the same order."""
    return sha256(json.dumps(list(paragraphs)))


def count(paragraphs: Iterable[Paragraph]) -> int:
    """How many questions there are."""
    return sum(len(paragraph.questions) for paragraph in paragraphs)
