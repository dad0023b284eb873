"""The picture of which labels a model takes for which."""

import math
from collections.abc import Sequence

from markupsafe import escape

from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.formats import whole
from sparsernn.report.story.history import Event, RunRecord

ROW = 24  # pixels: a row of numbers
GAP = 1  # pixels between rows; between columns the page's own colour shows through
LETTER = 7  # pixels: about as wide as a letter of a label
LEAST = 0.005  # smaller shares are 0 in per cent and get no number
STRONGEST = 0.55  # opacity of a full cell: letters are readable on it, in light and in dark mode


def confusion_pictures(run: RunRecord) -> tuple[Figure, ...]:
    """The last confusion that the run recorded, as a heat map: none, or one."""
    event = run.last("confusion")
    return (_picture(event),) if event.get("tags") and event.get("counts") else ()


def _picture(event: Event) -> Figure:
    tags, counts = [str(tag) for tag in event["tags"]], event["counts"]
    height, longest = ROW * len(tags), LETTER * max(len(tag) for tag in tags)
    rows = "".join(_row(k, tags, row) for k, row in enumerate(counts))
    columns = "".join(_column_name(k, tag, len(tags)) for k, tag in enumerate(tags))
    return Figure(
        title=f"Right and given labels, {event.get('split', 'test')}",
        unit=f"{whole(sum(map(sum, counts)))} words",
        body=rows + columns,
        alt=f"Confusion matrix of {len(tags)} labels: rows are right labels, columns the model's.",
        height=height,
        left=longest + 16,
        right=52,
        top=longest + 14,
        bottom=6,
        caption=_caption(event),
        legend=(("s0", "area", "right"), ("s1", "area", "mistaken"), *_third(event)),
    )


def _row(number: int, tags: Sequence[str], row: Sequence[int]) -> str:
    """Name, cells and count of a right label."""
    middle, total = ROW * number + ROW // 2, sum(row)
    name = f'<text class="row" x="-8" y="{middle}" dy=".35em" text-anchor="end">{escape(tags[number])}</text>'
    words = f'<text class="tick" x="100%" dx="8" y="{middle}" dy=".35em" text-anchor="start">{whole(total)}</text>'
    base = f'<rect class="cell empty" x="0" y="{ROW * number}" width="100%" height="{ROW - GAP}"/>'
    shares = [count / total if total else 0.0 for count in row]
    return name + base + "".join(_cell(number, k, tags, s) for k, s in enumerate(shares) if s) + words


def _cell(row: int, column: int, tags: Sequence[str], share: float) -> str:
    """The root of the share is the strength of the colour, for mistakes are rare: 1 % would be as good as white."""
    width = 100 / len(tags)
    colour = "s1" if row != column else "s7" if tags[row] == "other" else "s0"
    number = f"{100 * share:.0f}" if share >= LEAST else ""
    told = f"{tags[row]} labelled {tags[column]}: {share:.1%}"
    return (
        f'<rect class="cell {colour}" x="{column * width:.3f}%" y="{ROW * row}" width="{width:.3f}%" '
        f'height="{ROW - GAP}" fill-opacity="{STRONGEST * math.sqrt(share):.3f}"><title>{escape(told)}</title></rect>'
        f'<text class="in-cell" x="{(column + 0.5) * width:.3f}%" y="{ROW * row + ROW // 2}" dy=".35em" '
        f'text-anchor="middle">{number}</text>'
    )


def _column_name(number: int, tag: str, count: int) -> str:
    """The name over a column, read from below."""
    return (
        f'<svg x="{100 * (number + 0.5) / count:.3f}%" y="0" overflow="visible">'
        f'<text class="row" transform="rotate(-90)" x="6" dy=".35em">{escape(tag)}</text></svg>'
    )


def _third(event: Event) -> tuple[tuple[str, str, str], ...]:
    return (("s7", "area", "among the others"),) if event.get("together") else ()


def _caption(event: Event) -> str:
    told = (
        "Rows: right labels, with their numbers of words at the right. Columns: the model's. Numbers: per cent of "
        "the row; below 0.5 none."
    )
    together = event.get("together")
    return f"{told} Other: the {together} labels that were mistaken least." if together else told
