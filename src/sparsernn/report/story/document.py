"""What a report is made of: a document of sections, with cards in its head."""

from dataclasses import dataclass
from itertools import groupby

from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.tables import Table


@dataclass(frozen=True)
class Card:
    """One key figure: what it is, the figure, and a line that puts it in relation."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Text:
    """Text as it is, under its `title`. `kind`: "sample" (prose of the model) or "code"."""

    kind: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `figures` are drawn side by side where there is room."""

    title: str
    note: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    texts: tuple[Text, ...] = ()

    @property
    def anchor(self) -> str:
        """The heading as the target of a link."""
        return self.title.lower().replace(" ", "-")

    @property
    def spans(self) -> tuple[str, ...]:
        """How wide each figure stands on a wide page: "small" (a third), "" (a half) or "wide" (all of it).

        Narrow figures stand in threes where that leaves no gap, else in pairs; the odd one out gets a row.
        """
        spans: list[str] = []
        for narrow, group in groupby(self.figures, key=lambda figure: figure.narrow):
            spans += _spans(len(list(group)), narrow)
        return tuple(spans)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show, so that the section is left out."""
        return not (self.figures or self.tables or self.texts)


@dataclass(frozen=True)
class Document:
    """A whole report: what stands in its head, its cards, its sections."""

    kind: str
    title: str
    about: str
    status: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    links: tuple[tuple[str, str], ...] = ()


def _spans(count: int, narrow: bool) -> list[str]:
    """Spans of `count` neighbours, so that no row has a gap.

    >>> _spans(5, narrow=True), _spans(3, narrow=False)
    (['small', 'small', 'small', '', ''], ['', '', 'wide'])
    """
    halves = count if not narrow else {0: 0, 1: min(count, 4), 2: 2}[count % 3]
    pairs = [""] * (halves - halves % 2) + ["wide"] * (halves % 2)
    return ["small"] * (count - halves) + pairs
