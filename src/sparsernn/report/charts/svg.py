"""Drawings as SVG text, with positions in percent: they fill any width while their letters keep their size.

A drawing is made once, as the body of a plot area. `inline` puts it on a page, where the page's style gives
the colours (light or dark); `standalone` puts it in a file of its own, with that style inside. Colours are
classes s0 .. s7 (the style sheet's palette, safe for colour-blind readers), never values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup, escape

from sparsernn.report.charts.scale import Scale

COLOURS = 8
LEGEND = 645
"""Pixels across all columns of a legend."""
COUNTED = ("epoch", "step")  # axes on which only whole numbers mean something


@dataclass(frozen=True)
class Figure:
    """A drawn chart, ready for a page or a file.

    Attributes:
        title, unit: heading and what the values mean.
        body: SVG elements, x in percent and y in pixels of the plot area.
        height: of the plot area in pixels.
        legend: (colour class, look, text) rows.
        caption: a sentence under the chart; alt: what a person who can't see it should know.
        left, right, bottom, top: pixels around the plot area for labels of ticks, curves and the axis.
        narrow: it reads well on a third of a wide page.
    """

    title: str
    body: str
    alt: str
    height: int = 200
    unit: str = ""
    legend: tuple[tuple[str, str, str], ...] = ()
    caption: str = ""
    left: int = 46
    right: int = 26
    bottom: int = 40
    top: int = 10
    narrow: bool = False


def plane(shapes: str, height: int) -> str:
    """Shapes in a system of 1000 x `height` that is stretched over the plot area; line widths are not."""
    return (
        f'<svg x="0" y="0" width="100%" height="{height}" viewBox="0 0 1000 {height}" '
        f'preserveAspectRatio="none" overflow="visible"><g transform="scale(1 {height})">{shapes}</g></svg>'
    )


def path(
    points: Sequence[tuple[float, float]], x: Scale, y: Scale, style: str, *, closed: bool = False
) -> str:
    """A path through `points`, interrupted where a value is not finite."""
    commands, pen_down = [], False
    for a, b in points:
        drawable = math.isfinite(a) and math.isfinite(b)
        if drawable:
            commands.append(f"{'L' if pen_down else 'M'}{10 * x(a):.1f} {y.up(b):.4f}")
        pen_down = drawable
    return f'<path class="{style}" d="{"".join(commands)}{"Z" if closed else ""}"/>'


def grid(x: Scale, y: Scale, height: int, x_label: str) -> str:
    """Horizontal rules with their values, tick labels under the plot area, and the name of the axis."""
    rules = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{height * y.up(v):.1f}" y2="{height * y.up(v):.1f}"/>'
        f'<text class="tick" x="-8" y="{height * y.up(v):.1f}" dy=".35em" text-anchor="end">{t}</text>'
        for v, t in y.ticks()
    )
    ticks = "".join(
        f'<line class="axis" x1="{x(v):.2f}%" x2="{x(v):.2f}%" y1="{height}" y2="{height + 4}"/>'
        f'<text class="tick" x="{x(v):.2f}%" y="{height + 17}" text-anchor="middle">{t}</text>'
        for v, t in x.ticks(counts=x_label in COUNTED)
    )
    base = f'<line class="axis" x1="0" x2="100%" y1="{height}" y2="{height}"/>'
    name = f'<text class="axis-label" x="50%" y="{height + 34}" text-anchor="middle">{escape(x_label)}</text>'
    return rules + base + ticks + name


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted `places` apart until neighbours keep `gap`, inside [low, high] as far as that fits.

    >>> spread([10, 11, 50], 5, 0, 100)
    [10, 15, 50]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else max(place, low))
    limit = high
    for k in range(len(moved) - 1, -1, -1):
        moved[k] = min(moved[k], limit)
        limit = moved[k] - gap
    return moved


def inline(figure: Figure) -> Markup:
    """The chart for a page whose style sheet is the report's."""
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(figure.alt)}" width="100%" '
        f'height="{figure.height}">{figure.body}</svg>'
    )


def standalone(figure: Figure, width: int = 680) -> str:
    """The chart as a file of its own, `width` pixels wide, with title, legend and both colour schemes."""
    columns = _legend_columns([text for _, _, text in figure.legend])
    top = 40 + figure.top + 18 * math.ceil(len(figure.legend) / columns)
    height = top + figure.height + figure.bottom + 8
    style = files("sparsernn.report").joinpath("chart.css").read_text(encoding="utf-8")
    rows = "".join(_legend_entry(k, columns, *row) for k, row in enumerate(figure.legend))
    across = width - figure.left - figure.right - 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(figure.alt)}"><style>{style}</style>'
        f'<rect class="card" width="{width}" height="{height}" rx="8"/>'
        f'<text class="title" x="16" y="26">{escape(figure.title)}</text>'
        f'<text class="tick" x="{width - 16}" y="26" text-anchor="end">{escape(figure.unit)}</text>{rows}'
        f'<svg x="{figure.left + 10}" y="{top}" width="{across}" height="{figure.height}" '
        f'overflow="visible">{figure.body}</svg></svg>'
    )


def _legend_columns(texts: Sequence[str]) -> int:
    """As many as leave the longest text room; a letter is about 6.6 pixels wide."""
    longest = 25 + 6.6 * max(map(len, texts), default=0)
    return next((columns for columns in (3, 2) if longest <= LEGEND / columns), 1)


def _legend_entry(position: int, columns: int, colour: str, look: str, text: str) -> str:
    x, y = 16 + LEGEND // columns * (position % columns), 48 + 18 * (position // columns)
    mark = {"dots": "dot", "dashed": "dashed", "rug": "rug"}.get(look, "line")
    swatch = f'<circle class="dot {colour}" cx="{x + 9}" cy="{y - 4}" r="4"/>'
    if mark == "rug":
        swatch = f'<line class="rug" x1="{x + 17}" x2="{x + 17}" y1="{y - 8}" y2="{y}"/>'
    elif mark != "dot":
        swatch = f'<line class="{mark} {colour}" x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}"/>'
    return f'{swatch}<text class="tick" x="{x + 25}" y="{y}">{escape(text)}</text>'
