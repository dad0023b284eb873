"""Pictures of recurrent matrices, from the `recurrence` and `gradient` records of a run."""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence

import torch

from sparsernn.core.plain import Json
from sparsernn.report.charts.chart import Axes, Series, chart
from sparsernn.report.charts.checkpoint_charts import INK
from sparsernn.report.charts.run_charts import column, thin
from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.checkpoint_tensors import png
from sparsernn.report.story.formats import three
from sparsernn.report.story.history import Event, RunRecord, number

NOTE = "What the matrix of the recurrence looks like: of the first weights, after each epoch, and of the tested ones."
MOST_MAPS = 4  # maps with pictures of their own; curves show all
SIDE = 250  # pixels of a square picture
REACH = 110  # units of a spectrum's drawing from its middle to the unit circle
LEAST_RANGE = 0.02  # smallest range of moduli shown: less is next to nothing
LEAST_MEMORY = 1e-6  # of the first value: below, the log scale would show rounding

Row = Mapping[str, Json]


def recurrence_pictures(run: RunRecord) -> list[Figure]:
    """Spectrum and Schur form of each map, then the curves of all of them."""
    events = run.of("recurrence")
    names = [str(row.get("name")) for row in _rows(events[-1])] if events else []
    found = [
        figure for name in names[:MOST_MAPS] for figure in (_spectrum(events, name), _schur(events, name))
    ]
    found += [
        _by_epoch(events, names, "manifold_error", "Orthogonality error", "largest entry of |Q′Q − I|"),
        _by_epoch(events, names, "departure", "Departure from normality", "part of the norm"),
        _by_epoch(events, names, "radius", "Largest eigenvalue", "modulus"),
        *(_profile(events, name) for name in names[:MOST_MAPS]),
        *(_memory(events, name) for name in names[:MOST_MAPS]),
        *(_growth(events, name) for name in names[:MOST_MAPS]),
        _gradients(run.of("gradient")),
    ]
    return [figure for figure in found if figure]


def _rows(event: Event) -> list[Row]:
    return [row for row in event.get("maps") or [] if isinstance(row, Mapping)]


def _row(event: Event, name: str) -> Row:
    return next((row for row in _rows(event) if row.get("name") == name), {})


def _ends(events: Sequence[Event], name: str, key: str) -> list[tuple[str, int, Json]]:
    """A map's first and last value of what is not always looked at: (label, colour, value), one where they agree."""
    rows = [(event, _row(event, name).get(key)) for event in events]
    held = [(event, value) for event, value in rows if value]
    if not held:
        return []
    last = (_moment(held[-1][0]), 0, held[-1][1])
    return [last] if len(held) == 1 else [(_moment(held[0][0]), 7, held[0][1]), last]


def _moment(event: Event) -> str:
    """When a record was made, in words."""
    epoch = number(event.get("epoch"))
    return "first weights" if epoch == 0 else f"after epoch {epoch:g}"


def _title(what: str, name: str) -> str:
    """The heading of a picture; the place of the only layer's map says nothing."""
    place = name.removesuffix(".cell.map").removesuffix(".map")
    return what if place in ("", "layers.0") else f"{what}, {place}"


def _square(shapes: str, half: int) -> str:
    """Shapes in a system of which the middle square of `half` to each side is always whole and in proportion."""
    return (
        f'<svg width="100%" height="{SIDE}" viewBox="{-half} {-half} {2 * half} {2 * half}" '
        f'preserveAspectRatio="xMidYMid meet">{shapes}</svg>'
    )


def _spectrum(events: Sequence[Event], name: str) -> Figure | None:
    ends = _ends(events, name, "eigenvalues")
    clouds = [(label, colour, _conjugates(pairs)) for label, colour, pairs in ends]
    farthest = max((math.hypot(*point) for _, _, cloud in clouds for point in cloud), default=0.0)
    if not 0 < farthest < math.inf:
        return None
    scale = REACH / max(1.0, farthest)
    last = _row(next(e for e in reversed(events) if _row(e, name).get("eigenvalues")), name)
    return Figure(
        title=_title("Eigenvalues", name),
        unit=f"{last.get('size')} of them, and the unit circle",
        body=_square(_circle(scale) + "".join(_cloud(cloud, scale, c) for _, c, cloud in clouds), SIDE // 2),
        alt=f"Eigenvalues of the recurrent matrix in the complex plane; the largest has modulus {three(farthest)}.",
        height=SIDE,
        legend=tuple((f"s{colour}", "dots", label) for label, colour, _ in clouds),
        caption=f"Largest modulus {three(number(last.get('radius')))}. The real axis runs to the right.",
        bottom=12,
    )


def _conjugates(pairs: Json) -> list[tuple[float, float]]:
    """Both of each pair, of which the records hold the upper one."""
    points = [(number(pair[0]), number(pair[1])) for pair in pairs]
    return points + [(x, -y) for x, y in points if y > 0]


def _circle(radius: float) -> str:
    arc = f"A{radius:.1f} {radius:.1f} 0 0 1"
    return (
        f'<line class="grid" x1="{-REACH - 10}" x2="{REACH + 10}" y1="0" y2="0"/>'
        f'<line class="grid" y1="{-REACH - 10}" y2="{REACH + 10}" x1="0" x2="0"/>'
        f'<path class="dashed s7" d="M{radius:.1f} 0{arc} {-radius:.1f} 0{arc} {radius:.1f} 0"/>'
    )


def _cloud(points: Sequence[tuple[float, float]], scale: float, colour: int) -> str:
    radius = 2.6 if len(points) <= 300 else 1.6
    return "".join(
        f'<circle class="dot s{colour}" cx="{scale * x:.1f}" cy="{-scale * y:.1f}" r="{radius}"/>'
        for x, y in points
    )


def _schur(events: Sequence[Event], name: str) -> Figure | None:
    forms = _ends(events, name, "theta")
    if not forms:
        return None
    moment, _, form = forms[-1]
    side = int(number(form.get("side"))) if number(form.get("side")) > 0 else 0
    try:
        raw = base64.b64decode(str(form.get("cells")), validate=True)
    except binascii.Error:
        return None
    if not side or len(raw) != side * side or not any(raw):
        return None
    cells = torch.tensor(list(raw)).view(side, side) / 255
    data = base64.b64encode(png(cells, INK)).decode("ascii")
    half = SIDE // 2 - 4
    place = f'x="{-half}" y="{-half}" width="{2 * half}" height="{2 * half}"'
    return Figure(
        title=_title("Schur form", name),
        unit=f"below the blocks, {moment}",
        body=_square(
            f'<image href="data:image/png;base64,{data}" {place}/><rect class="frame" {place}/>', SIDE // 2
        ),
        alt="Sizes of the entries below the diagonal blocks of the Schur form of the recurrent matrix.",
        height=SIDE,
        caption=f"Full colour: {three(number(form.get('top')))}. A normal matrix would leave the picture empty.",
        bottom=12,
    )


def _by_epoch(
    events: Sequence[Event], names: Sequence[str], key: str, title: str, unit: str
) -> Figure | None:
    """A number of every map, from the first weights to the last epoch."""
    history = [event for event in events if not event.get("closely") or number(event.get("epoch")) == 0]
    x = column(history, "epoch")
    series = [
        Series(name if len(names) > 1 else "", x, [number(_row(e, name).get(key)) for e in history], k % 8)
        for k, name in enumerate(names)
    ]
    values = [v for one in series for v in one.y if math.isfinite(v)]
    log = key == "manifold_error" and bool(values) and min(values) > 0
    axes = Axes(unit + (", log scale" if log else ""), log=log, zero=key == "departure", least=LEAST_RANGE)
    return chart(title, series, axes, height=150)


def _profile(events: Sequence[Event], name: str) -> Figure | None:
    found = _ends(events, name, "profile")
    if not found or not any(number(y) > 0 for y in found[-1][2]):
        return None
    series = [Series(label, range(1, len(y) + 1), [number(v) for v in y], c) for label, c, y in found]
    axes = Axes("mean size of the entries", "places below the diagonal", zero=True)
    return chart(_title("Schur form by diagonal", name), series, axes, height=150, caption=PROFILE)


PROFILE = "A peak at the left is a delay line: units that hand on what the one before them held."


def _memory(events: Sequence[Event], name: str) -> Figure | None:
    found = _ends(events, name, "memory")
    series = [Series(label, range(len(y)), _visible([number(v) for v in y]), c) for label, c, y in found]
    axes = Axes("information about an input, log scale", "steps ago", log=True)
    return chart(_title("Fisher memory", name), series, axes, height=150, caption=MEMORY)


MEMORY = (
    "Without the nonlinearity, with noise in every unit at the last 128 steps; an orthogonal matrix holds 1/128 of "
    "every step."
)


def _growth(events: Sequence[Event], name: str) -> Figure | None:
    found = _ends(events, name, "growth")
    series = [Series(label, range(len(y)), _visible([number(v) for v in y]), c) for label, c, y in found]
    axes = Axes("largest factor, log scale", "steps", log=True, least=LEAST_RANGE)
    return chart(_title("Growth of a signal", name), series, axes, height=150, caption=GROWTH)


GROWTH = (
    "Norm of the matrix to the power of the steps, without the nonlinearity: 1 throughout for an orthogonal one; a "
    "rise before the fall is what only a matrix that is not normal does."
)


def _visible(values: list[float]) -> list[float]:
    """NaN in place of what is nothing beside the largest value."""
    top = max((v for v in values if math.isfinite(v)), default=0.0)
    return [v if v > LEAST_MEMORY * top else math.nan for v in values]


def _gradients(events: Sequence[Event]) -> Figure | None:
    """Of the first weights and of the tested ones."""
    held = [event for event in events if event.get("norms")]
    ends = [(held[0], 7), (held[-1], 0)][-len(held) :] if held else []
    series = []
    for event, colour in ends:
        norms = _visible([number(v) for v in event["norms"]])
        x, y, _ = thin(list(range(len(norms))), norms)
        series.append(Series(_moment(event), x, y, colour))
    values = [v for one in series for v in one.y if math.isfinite(v)]
    log = bool(values) and max(values) > 4 * min(values)
    axes = Axes("norm" + (", log scale" if log else ""), "steps before the answer", log=log, zero=not log)
    return chart("Gradient by time lag", series, axes, height=150, caption=GRADIENT)


GRADIENT = (
    "Of the last answer's loss, at the state so many steps before; means over some validation sequences."
)
