"""The report as markdown: the same sections and tables; charts are SVG files in a folder beside it."""

import re
import shutil
from pathlib import Path

from sparsernn.report.charts.svg import Figure, standalone
from sparsernn.report.story.document import Card, Document, Section, Text
from sparsernn.report.story.tables import Table

SPECIAL = re.compile(r"([\\`*_\[\]<>#|])")


def write_markdown(document: Document, path: Path) -> None:
    """Write `document` to `path` and its charts to `<stem>_figures/` beside it (which is replaced)."""
    folder = path.with_name(f"{path.stem}_figures")
    shutil.rmtree(folder, ignore_errors=True)
    lines = [*_head(document)]
    for section in document.sections:
        lines += _section(section, folder)
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def text(value: str) -> str:
    """`value` with the characters escaped that mean something in markdown or HTML.

    >>> text("a_b <c>")
    'a\\\\_b \\\\<c\\\\>'
    """
    return SPECIAL.sub(r"\\\1", value)


def _head(document: Document) -> list[str]:
    links = " · ".join(f"[{text(label)}]({address})" for label, address in document.links)
    lines = [f"# {text(document.title)}", text(document.about), text(" · ".join(document.status)), links]
    return [line for line in [*lines, *_cards(document.cards)] if line]


def _cards(cards: tuple[Card, ...]) -> list[str]:
    return [
        "\n".join(f"- {c.label}: **{c.value}**" + (f" ({text(c.note)})" if c.note else "") for c in cards)
    ]


def _section(section: Section, folder: Path) -> list[str]:
    lines = [f"## {text(section.title)}", text(section.note)]
    lines += [
        _figure(figure, section.anchor, position, folder)
        for position, figure in enumerate(section.figures, 1)
    ]
    for table in section.tables:
        lines += _folded(table) if table.folded else [_bold(table.title), table.markdown()]
    for block in section.texts:
        lines += [_bold(block.title), _fenced(block)]
    return [line for line in lines if line]


def _folded(table: Table) -> list[str]:
    return [
        f"<details><summary>{text(table.title)} ({len(table.rows)})</summary>",
        table.markdown(),
        "</details>",
    ]


def _bold(title: str) -> str:
    return f"**{text(title)}**" if title else ""


def _figure(figure: Figure, anchor: str, position: int, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{anchor}-{position}.svg"
    (folder / name).write_text(standalone(figure), encoding="utf-8")
    caption = f"\n\n{text(figure.caption)}" if figure.caption else ""
    return f"![{text(figure.alt)}]({folder.name}/{name}){caption}"


def _fenced(block: Text) -> str:
    """A fence that is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{block.text.rstrip()}\n{fence}"
