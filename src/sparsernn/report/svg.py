"""Charts as SVG text: positions in percent, so that a chart fills any width while its letters keep their size.

A chart is drawn once, as the body of a plot area. `inline` puts the body on a page, where the page's style gives
the colours (light or dark); `standalone` puts it in a file of its own, with the same style inside. Colours are
classes s0 .. s7 (the style sheet's palette, safe for colour-blind readers), never values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from markupsafe import Markup, escape

from sparsernn.report.scale import Scale, scale_for

COLOURS = 8
LABEL_GAP = 13  # pixels between two labels at the end of curves: one line of the 12 pixel letters


@dataclass(frozen=True)
class Series:
    """One curve. NaN and infinite values interrupt it.

    Attributes:
        label: for the legend; "" leaves it out there.
        x, y: positions and values, the same number of each.
        colour: 0..7, index into the palette.
        look: "line", "dashed", "area" (filled down to the axis) or "dots" (no line).
        tag: a short text at the right end of the curve.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    look: str = "line"
    tag: str = ""


@dataclass(frozen=True)
class Band:
    """A faint area between two curves: the range that a smoothed series hides."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Marks:
    """What happened when: `lines` are (position, text) events, `rug` many small ticks that share one `rug_label`."""

    lines: tuple[tuple[float, str], ...] = ()
    rug: tuple[float, ...] = ()
    rug_label: str = ""


@dataclass(frozen=True)
class Axes:
    """How the plane is drawn: `unit` names the values, `x_label` the positions; `zero` starts the values at 0."""

    unit: str = ""
    x_label: str = "epoch"
    log: bool = False
    zero: bool = False
    x_log: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawn chart, ready for a page or a file.

    Attributes:
        title, unit: heading and what the values mean.
        body: SVG elements, x in percent and y in pixels of the plot area.
        height: of the plot area in pixels.
        legend: (colour class, look, text) rows.
        caption: a sentence under the chart; alt: what a person who can't see it should know.
        left, bottom, top: pixels around the plot area for tick labels and the axis label.
    """

    title: str
    body: str
    alt: str
    height: int = 200
    unit: str = ""
    legend: tuple[tuple[str, str, str], ...] = ()
    caption: str = ""
    left: int = 46
    bottom: int = 40
    top: int = 10


def chart(title: str, series: Sequence[Series], axes: Axes, **extra: object) -> Figure | None:
    """Draw curves over a common plane; None where there is not one finite point.

    Args:
        title: heading of the chart.
        series: the curves, drawn in this order.
        axes: the plane.
        **extra: `bands` (Band, ...), `marks` (Marks), `caption`, `height` in pixels (200).
    """
    return _Drawing(title, [s for s in series if finite(s)], axes, **extra).figure()  # type: ignore[arg-type]


def finite(series: Series) -> list[tuple[float, float]]:
    """The points of `series` that can be drawn."""
    return [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class _Drawing:
    title: str
    series: list[Series]
    axes: Axes
    bands: Sequence[Band] = ()
    marks: Marks = field(default_factory=Marks)
    caption: str = ""
    height: int = 200

    def figure(self) -> Figure | None:
        if not self.series:
            return None
        x, y = self.scales()
        parts = [grid(x, y, self.height, self.axes.x_label), self.events(x)]
        parts.append(plane("".join(self.shapes(x, y)), self.height))
        parts += [self.dots(s, x, y) for s in self.series] + [self.tags(y)]
        return Figure(
            self.title, "".join(parts), self.alt(), self.height, self.axes.unit, self.legend(), self.caption
        )

    def scales(self) -> tuple[Scale, Scale]:
        points = [point for s in self.series for point in finite(s)]
        ys = [p[1] for p in points]
        xs = [p[0] for p in points] + [p for p, _ in self.marks.lines]
        if self.axes.zero:
            ys.append(0.0)
        tight = scale_for(xs, log=self.axes.x_log, padded=self.axes.x_log)
        return tight, scale_for(ys, log=self.axes.log, padded=True, floor=0.0 if self.axes.zero else None)

    def shapes(self, x: Scale, y: Scale) -> list[str]:
        bands = [path(_around(b, y), x, y, f"band s{b.colour}", closed=True) for b in self.bands]
        return bands + [self.line(s, x, y) for s in self.series if s.look != "dots"]

    def line(self, series: Series, x: Scale, y: Scale) -> str:
        points = list(zip(series.x, series.y, strict=True))
        kind = "dashed" if series.look == "dashed" else "line"
        line = path(points, x, y, f"{kind} s{series.colour}")
        if series.look != "area":
            return line
        good = finite(series)
        closed = [(good[0][0], y.low), *good, (good[-1][0], y.low)]
        return path(closed, x, y, f"area s{series.colour}", closed=True) + line

    def dots(self, series: Series, x: Scale, y: Scale) -> str:
        """Points that a mouse can ask for their value; for few points only, else they hide the curve."""
        good = finite(series)
        if series.look == "area" or (len(good) > 40 and series.look != "dots"):
            return ""
        name, radius = escape(series.label), 4 if series.look == "dots" else 2.6
        first = f'x="{x(good[0][0]):.2f}%" y="{self.height * y.up(good[0][1]) - 7:.1f}"'
        number = (
            f'<text class="number s{series.colour}" {first} text-anchor="middle">{escape(series.tag)}</text>'
        )
        return (number if series.look == "dots" and series.tag else "") + "".join(
            f'<circle class="dot s{series.colour}" cx="{x(a):.2f}%" cy="{self.height * y.up(b):.1f}" r="{radius}">'
            f"<title>{name}: {b:.5g} at {escape(self.axes.x_label)} {a:g}</title></circle>"
            for a, b in good
        )

    def tags(self, y: Scale) -> str:
        tagged = [
            (self.height * y.up(finite(s)[-1][1]), s) for s in self.series if s.tag and s.look != "dots"
        ]
        tagged.sort(key=lambda pair: pair[0])
        places = spread([at for at, _ in tagged], LABEL_GAP, 0, self.height)
        return "".join(
            f'<text class="tag s{s.colour}" x="100%" dx="6" y="{at:.1f}" dy=".35em">{escape(s.tag)}</text>'
            for at, (_, s) in zip(places, tagged, strict=True)
        )

    def events(self, x: Scale) -> str:
        rug = "".join(
            f'<line class="rug" x1="{x(p):.2f}%" x2="{x(p):.2f}%" y1="{self.height}" y2="{self.height - 6}"/>'
            for p in self.marks.rug
            if x.low <= p <= x.high
        )
        return rug + "".join(self.event(x(position), text) for position, text in self.marks.lines)

    def event(self, at: float, text: str) -> str:
        anchor, shift = ("end", -5) if at > 50 else ("start", 5)
        return (
            f'<line class="event" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="{self.height}"/>'
            f'<text class="event-label" x="{at:.2f}%" dx="{shift}" y="11" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def legend(self) -> tuple[tuple[str, str, str], ...]:
        rows = [(f"s{s.colour}", s.look, s.label) for s in self.series if s.label]
        rug = [("", "rug", self.marks.rug_label)] if self.marks.rug and self.marks.rug_label else []
        return tuple(rows + rug)

    def alt(self) -> str:
        ends = [(s.label or self.title, finite(s)) for s in self.series[:8]]
        told = "; ".join(f"{name} from {p[0][1]:.4g} to {p[-1][1]:.4g}" for name, p in ends)
        return f"{self.title} by {self.axes.x_label}: {told}."


def plane(shapes: str, height: int) -> str:
    """Shapes in a system of 1000 x `height` that is stretched over the plot area; line widths are not."""
    return (
        f'<svg x="0" y="0" width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
        f'overflow="visible"><g transform="scale(1 {height})">{shapes}</g></svg>'
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
        for v, t in x.ticks()
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
        f'<svg class="plot" role="img" aria-label="{escape(figure.alt)}" width="100%" height="{figure.height}">'
        f"{figure.body}</svg>"
    )


def standalone(figure: Figure, width: int = 680) -> str:
    """The chart as a file of its own, `width` pixels wide, with title, legend and both colour schemes."""
    top = 40 + figure.top + 18 * math.ceil(len(figure.legend) / 3)
    height = top + figure.height + figure.bottom + 8
    style = files("sparsernn.report").joinpath("chart.css").read_text(encoding="utf-8")
    rows = "".join(_legend_entry(k, *row) for k, row in enumerate(figure.legend))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(figure.alt)}"><style>{style}</style>'
        f'<rect class="card" width="{width}" height="{height}" rx="8"/>'
        f'<text class="title" x="16" y="26">{escape(figure.title)}</text>'
        f'<text class="tick" x="{width - 16}" y="26" text-anchor="end">{escape(figure.unit)}</text>{rows}'
        f'<svg x="{figure.left + 10}" y="{top}" width="{width - figure.left - 50}" height="{figure.height}" '
        f'overflow="visible">{figure.body}</svg></svg>'
    )


def _legend_entry(position: int, colour: str, look: str, text: str) -> str:
    x, y = 16 + 215 * (position % 3), 48 + 18 * (position // 3)
    mark = {"dots": "dot", "dashed": "dashed", "rug": "rug"}.get(look, "line")
    swatch = f'<circle class="dot {colour}" cx="{x + 9}" cy="{y - 4}" r="4"/>'
    if mark != "dot":
        swatch = f'<line class="{mark} {colour}" x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}"/>'
    return f'{swatch}<text class="tick" x="{x + 25}" y="{y}">{escape(text)}</text>'


def _around(band: Band, y: Scale) -> list[tuple[float, float]]:
    """Up along the high edge and back along the low one, cut to what the scale shows."""
    rows = [
        (a, lo, hi) for a, lo, hi in zip(band.x, band.low, band.high, strict=True) if math.isfinite(lo + hi)
    ]
    high = [(a, min(hi, y.high)) for a, _, hi in rows]
    return high + [(a, max(lo, y.low)) for a, lo, _ in reversed(rows)]
