"""The format of SQuAD 1.1 as its users write it: JSON of articles, or a question a line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data.questions import Answer, Paragraph, Question
from sparsernn.data.text_files import read_text


@dataclass
class Oddities:
    """What a file has that nobody can learn or judge as it stands.

    Attributes:
        without_answer: questions that have no answer (as in SQuAD 2.0); they are left out.
        repeated_ids: questions whose id an earlier one has; they get one of their own.
        unplaced: answers that do not stand where the file says; they count as right, but are not trained on.
    """

    without_answer: int = 0
    repeated_ids: int = 0
    unplaced: int = 0

    def sentence(self) -> str:
        """What is not 0, in words; "" where all is well.

        >>> Oddities(without_answer=2, unplaced=1).sentence()
        '2 questions without an answer are left out, 1 answer does not stand where the file says'
        """
        kinds = (
            (
                self.without_answer,
                "question",
                "without an answer is left out",
                "without an answer are left out",
            ),
            (self.repeated_ids, "question", "has the id of another", "have the id of another"),
            (
                self.unplaced,
                "answer",
                "does not stand where the file says",
                "do not stand where the file says",
            ),
        )
        plural = ((n, f"{noun}s {many}" if n > 1 else f"{noun} {one}") for n, noun, one, many in kinds)
        return ", ".join(f"{n:,} {words}" for n, words in plural if n)


class QuestionFile(NamedTuple):
    """What a file holds, and what is odd about it."""

    paragraphs: list[Paragraph]
    oddities: Oddities


def read_questions(path: str | Path) -> QuestionFile:
    """The paragraphs of a file, in its order, white space around questions and answers removed.

    Three forms are read, packed with gzip or not: SQuAD's own (`data`, articles with paragraphs with `qas`); a list
    of such articles, or of single questions with `context`, `question` and `answers`; and a line of JSON for each.
    Answers are a list of `text` and `answer_start`, or one such with lists in it. A missing title or id is made up; a
    place may be written "4" or 4.0.

    Raises:
        InputError: missing, no JSON, or not in this format; the sentence says what is missing where. No question with
            an answer.

    Source of the format: P. Rajpurkar, J. Zhang, K. Lopyrev and P. Liang, "SQuAD: 100,000+ Questions for Machine
    Comprehension of Text", 2016, arXiv:1606.05250.
    """
    reader = _Reader()
    for where, entry in _entries(str(path), read_text(path)):
        reader.read(entry, where)
    found = reader.paragraphs()
    if not any(paragraph.questions for paragraph in found):
        raise InputError(f"'{path}' has no question with an answer; SQuAD 1.1 has at least one for each.")
    return QuestionFile(found, reader.oddities)


def _entries(name: str, text: str) -> Iterator[tuple[str, object]]:
    """What a file lists, each with its place in words."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or (
            error.lineno < 2 and not name.removesuffix(".gz").endswith(".jsonl")
        ):
            raise InputError(f"'{name}' is not JSON ({error}); the format of SQuAD 1.1 is needed.") from None
        yield from _lines(name, text)
        return
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"'{name}' is not JSON that can be read ({type(error).__name__}).") from None
    if isinstance(whole, dict) and "paragraphs" not in whole and "context" not in whole:
        whole = _need(whole, "data", list, "a list of articles", f"'{name}'")
    for number, entry in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield f"'{name}', article {number}", entry


def _lines(name: str, text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"'{name}', line {number} is not JSON ({error}); one object a line is needed."
            ) from None
        yield f"'{name}', line {number}", entry


@dataclass
class _Reader:
    """Puts entries together: paragraphs as they are, single questions by the title and the text that they have."""

    oddities: Oddities = field(default_factory=Oddities)
    ids: set[str] = field(default_factory=set)
    found: list[tuple[str, str, list[Question]]] = field(default_factory=list)
    asked: dict[tuple[str, str], list[Question]] = field(default_factory=dict)
    untitled: dict[str, str] = field(default_factory=dict)

    def paragraphs(self) -> list[Paragraph]:
        """All of them, in the order in which they first came."""
        return [Paragraph(title, text, tuple(asked)) for title, text, asked in self.found]

    def read(self, entry: object, where: str) -> None:
        """An article, a paragraph, or a single question with its paragraph."""
        if not isinstance(entry, dict):
            raise _not_squad(
                where, f"it is {_shown(entry)}, where an article, a paragraph or a question is needed"
            )
        if "paragraphs" in entry:
            title = self._title(entry, where, where)
            for number, paragraph in enumerate(_need(entry, "paragraphs", list, "a list", where), 1):
                self._paragraph(paragraph, title, f"{where}, paragraph {number}")
        elif "question" in entry:
            self._single(entry, where)
        else:
            self._paragraph(entry, self._title(entry, where, where), where)

    def _single(self, entry: Mapping[str, Json], where: str) -> None:
        context = _text(entry, "context", where)
        title = self._title(entry, context, where)
        if (title, context) not in self.asked:
            self.asked[title, context] = self._begin(title, context, where)
        question = self._question(entry, title, context, where)
        self.asked[title, context] += [question] if question else []

    def _begin(self, title: str, context: str, where: str) -> list[Question]:
        """A new paragraph; the list that takes its questions."""
        if not context.strip():
            raise _not_squad(where, "its context is empty")
        asked: list[Question] = []
        self.found.append((title, context, asked))
        return asked

    def _title(self, entry: Mapping[str, Json], key: str, where: str) -> str:
        """The title of an article; one is made up for what has none, the same for the same `key`."""
        if entry.get("title") is None:
            return self.untitled.setdefault(key, f"article {len(self.untitled) + 1}")
        return _text(entry, "title", where)

    def _paragraph(self, entry: object, title: str, where: str) -> None:
        if not isinstance(entry, dict):
            raise _not_squad(where, f"it is {_shown(entry)}, where a paragraph is needed")
        context = _text(entry, "context", where)
        asked = self._begin(title, context, where)
        for number, question in enumerate(_need(entry, "qas", list, "a list of questions", where), 1):
            made = self._question(question, title, context, f"{where}, question {number}")
            asked += [made] if made else []

    def _question(self, entry: object, title: str, context: str, where: str) -> Question | None:
        if not isinstance(entry, dict):
            raise _not_squad(where, f"it is {_shown(entry)}, where a question is needed")
        text = _text(entry, "question", where).strip()
        given = _answers(entry, where)
        answers = tuple(self._answer(start, answer, context) for start, answer in given if answer.strip())
        if not answers:
            self.oddities.without_answer += 1
            return None
        return Question(self._id(entry.get("id"), title, where), text, answers)

    def _id(self, given: object, title: str, where: str) -> str:
        if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
            raise _not_squad(where, f"its id is {_shown(given)}, where a text is needed")
        wanted = f"{title}, question {len(self.ids) + 1}" if given is None else str(given)
        self.oddities.repeated_ids += given is not None and wanted in self.ids
        own, times = wanted, 1
        while own in self.ids:
            times += 1
            own = f"{wanted} ({times})"
        self.ids.add(own)
        return own

    def _answer(self, start: int, given: str, context: str) -> Answer:
        text = given.strip()
        begin = start + len(given) - len(given.lstrip())
        if start < 0 or context[begin : begin + len(text)] != text:
            self.oddities.unplaced += 1
            begin = -1
        return Answer(begin, text)


def _answers(entry: Mapping[str, Json], where: str) -> list[tuple[int, str]]:
    """Places and texts of a question's answers, from either form."""
    given = entry.get("answers")
    if isinstance(given, dict):
        given = _transposed(given, where)
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        raise _not_squad(
            where, f"its answers are {_shown(given)}, where a list of text and answer_start is needed"
        )
    return [(_start(answer, where), _text(answer, "text", where)) for answer in given]


def _transposed(given: Mapping[str, Json], where: str) -> list[dict[str, Json]]:
    """{"text": [...], "answer_start": [...]} as a list of answers."""
    texts, starts = (given.get(key, []) for key in ("text", "answer_start"))
    if not isinstance(texts, list) or not isinstance(starts, list):
        return [dict(given)]
    if len(texts) != len(starts):
        raise _not_squad(
            where, f"it has {len(texts)} texts of answers and {len(starts)} places, where one each is needed"
        )
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _start(answer: Mapping[str, Json], where: str) -> int:
    if "answer_start" not in answer:
        raise _not_squad(where, "an answer has no key 'answer_start', the place of its first character")
    given = answer["answer_start"]
    try:
        if isinstance(given, bool) or int(given) != float(given):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise _not_squad(
            where, f"an answer_start is {_shown(given)}, where a whole number is needed"
        ) from None
    return int(given)


def _text(entry: Mapping[str, Json], key: str, where: str) -> str:
    return str(_need(entry, key, str, "a text", where))


def _need(entry: Mapping[str, Json], key: str, kind: type, what: str, where: str) -> Json:
    if key not in entry:
        raise _not_squad(where, f"it has no key '{key}', {what}")
    if not isinstance(entry[key], kind):
        raise _not_squad(where, f"its '{key}' is {_shown(entry[key])}, where {what} is needed")
    return entry[key]


def _not_squad(where: str, what: str) -> InputError:
    return InputError(f"{where} is not in the format of SQuAD 1.1: {what}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
