"""Paragraphs and questions as numbers, and what a model's pointers mean in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from sparsernn.core.devices import CPU, moved
from sparsernn.data.questions import Paragraph, text_of, token_spans, words_of
from sparsernn.models.bidaf import Pointers
from sparsernn.models.spans import best_spans
from sparsernn.tasks.lexicon import Lexicon, tokens_of


class Found(NamedTuple):
    """An answer that a model gives."""

    text: str
    start: int
    """Place of its first character in the paragraph."""
    probability: float
    """Of its first word times that of its last one."""


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
        id: as the data have it.
        paragraph: number of its paragraph.
        rows: its tokens' rows in the lexicon.
        spans: first and last token of every right answer that stands in the paragraph.
    """

    id: str
    paragraph: int
    rows: Tensor
    spans: list[tuple[int, int]]


class Encoded:
    """The paragraphs and questions of a split as rows of a lexicon.

    Args:
        paragraphs: of the split.
        lexicon: gets the rows that it lacks.

    Attributes:
        spans: where the tokens of each paragraph stand.
        texts: their rows.
        asked: all questions, in their order.
    """

    def __init__(self, paragraphs: Sequence[Paragraph], lexicon: Lexicon) -> None:
        self.paragraphs = paragraphs
        self.spans = [token_spans(p.text) for p in paragraphs]
        # all new tokens at once: every time that there is one the lexicon's tables are copied
        lexicon.rows({token for p in paragraphs for token in _all_tokens(p)})
        self.texts = [lexicon.rows(tokens_of(p.text)) for p in paragraphs]
        self.asked = [asked for number in range(len(paragraphs)) for asked in self._asked(number, lexicon)]

    def _asked(self, number: int, lexicon: Lexicon) -> Iterable[Asked]:
        for q in self.paragraphs[number].questions:
            places = [place for a in q.answers if (place := words_of(a, self.spans[number]))]
            yield Asked(q.id, number, lexicon.rows(tokens_of(q.text) or ["?"]), places)

    def length(self, question: int) -> int:
        """Tokens of a question's paragraph."""
        return len(self.texts[self.asked[question].paragraph])

    def within(self, context: int, question: int) -> list[int]:
        """The questions that are short enough and whose answers all lie in the first `context` tokens."""
        return [
            number
            for number, a in enumerate(self.asked)
            if len(a.rows) <= question and a.spans and max(last for _, last in a.spans) < context
        ]

    def found(self, pointers: Pointers, questions: Iterable[int]) -> list[Found]:
        """The answers that are pointed to."""
        numbers = [self.asked[k].paragraph for k in questions]
        return found(pointers, [self.paragraphs[n].text for n in numbers], [self.spans[n] for n in numbers])


def found(
    pointers: Pointers, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
) -> list[Found]:
    """The likeliest answers.

    Args:
        pointers: a model's scores.
        texts: the paragraphs.
        spans: where their tokens stand.
    """
    best = best_spans(*moved(pointers, CPU))
    rows = zip(best.first.tolist(), best.last.tolist(), best.probability.tolist(), texts, spans, strict=True)
    return [Found(text_of(i, j, text, own), own[i][0], p) for i, j, p, text, own in rows]


def _all_tokens(paragraph: Paragraph) -> list[str]:
    texts = [paragraph.text, *(question.text for question in paragraph.questions)]
    return [token for text in texts for token in tokens_of(text)] + ["?"]
