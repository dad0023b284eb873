"""Charts: curves over a common plane, with what happened on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import escape

from sparsernn.report.charts.scale import Scale, scale_for
from sparsernn.report.charts.svg import Figure, grid, path, plane, spread

FEW_DOTS, MOST_DOTS = (
    12,
    120,
)  # up to so many points are drawn as dots; up to so many tell a mouse their value
EDGE = 97.0  # percent: curves that end further right share the column of labels at the edge
NARROW = 150  # pixels of height: charts lower than this still have a good shape on a third of a page
LETTER = 7  # pixels: about as wide as a letter of the labels
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
    """What happened when: `lines` are (position, text), `rug` many small ticks that share one `rug_label`."""

    lines: tuple[tuple[float, str], ...] = ()
    rug: tuple[float, ...] = ()
    rug_label: str = ""


@dataclass(frozen=True)
class Axes:
    """How the plane is drawn: `unit` names the values, `x_label` the positions.

    `zero` starts the values at 0, `x_zero` the positions; `log` and `x_log` ask for logarithmic scales;
    `least` is the smallest range of values shown; `shown` are values that the plane holds in any case, so that charts
    side by side have one scale.
    """

    unit: str = ""
    x_label: str = "epoch"
    log: bool = False
    zero: bool = False
    x_log: bool = False
    x_zero: bool = True
    least: float = 0.0
    shown: tuple[float, ...] = ()


def chart(title: str, series: Sequence[Series], axes: Axes, **extra: object) -> Figure | None:
    """Draw curves over a common plane; None where no curve has two finite points.

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
        if max((len(finite(s)) if s.look != "dots" else 0 for s in self.series), default=0) < self.least():
            return None
        x, y = self.scales()
        parts = [grid(x, y, self.height, self.axes.x_label), self.events(x)]
        parts.append(plane("".join(self.shapes(x, y)), self.height))
        parts += [self.dots(s, x, y) for s in self.series] + [self.tags(x, y)]
        return Figure(
            title=self.title,
            body="".join(parts),
            alt=self.alt(),
            height=self.height,
            unit=self.axes.unit,
            legend=self.legend(),
            caption=self.caption,
            right=max(Figure.right, 12 + LETTER * max((len(s.tag) for s in self.series), default=0)),
            narrow=self.height <= NARROW,
        )

    def least(self) -> int:
        """How many points make a picture: two for a curve; any for dots alone."""
        return 2 if any(s.look != "dots" for s in self.series) or not self.series else 0

    def scales(self) -> tuple[Scale, Scale]:
        points = [point for s in self.series for point in finite(s)]
        ys = [p[1] for p in points] + list(self.axes.shown)
        xs = [p[0] for p in points] + [p for p, _ in self.marks.lines] + ([0.0] if self.axes.x_zero else [])
        if self.axes.zero:
            ys.append(0.0)
        floor = 0.0 if self.axes.zero else None
        across = scale_for(xs, log=self.axes.x_log, padded=not self.axes.x_zero)
        return across, scale_for(ys, log=self.axes.log, padded=True, floor=floor, least=self.axes.least)

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
        if series.look == "area" or (len(good) > MOST_DOTS and series.look != "dots"):
            return ""
        style = "dot" if series.look == "dots" or len(good) <= FEW_DOTS else "hit"
        name, radius = escape(series.label), 4 if series.look == "dots" else 2.6
        first = f'x="{x(good[0][0]):.2f}%" y="{self.height * y.up(good[0][1]) - 7:.1f}"'
        number = (
            f'<text class="number s{series.colour}" {first} text-anchor="middle">{escape(series.tag)}</text>'
        )
        return (number if series.look == "dots" and series.tag else "") + "".join(
            f'<circle class="{style} s{series.colour}" cx="{x(a):.2f}%" cy="{self.height * y.up(b):.1f}" '
            f'r="{radius}">'
            f"<title>{name}: {b:.5g} at {escape(self.axes.x_label)} {a:g}</title></circle>"
            for a, b in good
        )

    def tags(self, x: Scale, y: Scale) -> str:
        """The texts at the ends of curves; those above each other are moved apart where they would touch."""
        columns: dict[int, list[tuple[float, float, Series]]] = {}
        for s in self.series:
            if s.tag and s.look != "dots":
                a, b = finite(s)[-1]
                across = 100.0 if x(a) >= EDGE else x(a)
                columns.setdefault(round(across), []).append((self.height * y.up(b), across, s))
        return "".join(self.column(sorted(ends, key=lambda end: end[0])) for ends in columns.values())

    def column(self, ends: Sequence[tuple[float, float, Series]]) -> str:
        places = spread([at for at, *_ in ends], LABEL_GAP, 0, self.height)
        return "".join(
            f'<text class="tag s{s.colour}" x="{across:.2f}%" dx="6" y="{down:.1f}" dy=".35em">'
            f"{escape(s.tag)}</text>"
            for down, (_, across, s) in zip(places, ends, strict=True)
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
            f'<text class="event-label" x="{at:.2f}%" dx="{shift}" y="11" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def legend(self) -> tuple[tuple[str, str, str], ...]:
        rows = [(f"s{s.colour}", s.look, s.label) for s in self.series if s.label and s.tag != s.label]
        rug = [("", "rug", self.marks.rug_label)] if self.marks.rug and self.marks.rug_label else []
        return tuple(rows + rug)

    def alt(self) -> str:
        ends = [(s.label or self.title, finite(s)) for s in self.series[:8]]
        told = "; ".join(f"{name} from {p[0][1]:.4g} to {p[-1][1]:.4g}" for name, p in ends)
        return f"{self.title} by {self.axes.x_label}: {told}."


def _around(band: Band, y: Scale) -> list[tuple[float, float]]:
    """Up along the high edge and back along the low one, cut to what the scale shows."""
    rows = [
        (a, lo, hi) for a, lo, hi in zip(band.x, band.low, band.high, strict=True) if math.isfinite(lo + hi)
    ]
    high = [(a, min(hi, y.high)) for a, _, hi in rows]
    return high + [(a, max(lo, y.low)) for a, lo, _ in reversed(rows)]
