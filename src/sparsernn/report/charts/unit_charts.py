"""Which hidden units live: their norms over time, what is left of each layer, and what removing the rest brought."""

import base64
from collections.abc import Callable, Mapping, Sequence

import torch
from markupsafe import escape
from torch import Tensor

from sparsernn.core.plain import Json
from sparsernn.report.charts.chart import Axes, Series, chart
from sparsernn.report.charts.checkpoint_charts import INK
from sparsernn.report.charts.run_charts import MOST_TENSORS, column
from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.checkpoint_tensors import png
from sparsernn.report.story.formats import milliseconds, ratio, size, three, whole
from sparsernn.report.story.history import Event, RunRecord, number
from sparsernn.report.story.tables import Table

NOTE = (
    "A unit is dead when every weight it owns is 0: its rows in all gates, its recurrent column, and the columns "
    "through which it is read."
)
HEIGHT = 120  # pixels of a picture of norms: some 3 for each of the cells it has at most
CELLS = (40, 200)  # most rows and columns of a picture of norms; more units than rows share one
PALEST = 0.15  # opacity of the weakest unit that lives
BAR, GAP = 16, 34  # pixels: height of a layer's bar, and from one bar to the next


def structure_pictures(run: RunRecord) -> tuple[Figure, ...]:
    """Living units by epoch, the norms of each layer's units, and which of them are left."""
    events = _same_widths(run.of("units"))
    names = [str(layer["name"]) for layer in events[-1]["layers"]] if events else []
    found = [_living_chart(run.of("units"))]
    found += [_norms_picture(name, events) for name in names[:MOST_TENSORS]]
    found.append(_left_picture(_left(run)))
    return tuple(figure for figure in found if figure is not None)


def living_units(run: RunRecord) -> tuple[list[int], list[int]]:
    """How many units of each layer are left, and how many there were; nothing where units are not followed."""
    record, last = run.last("compact"), run.last("units")
    if record:
        layers = record.get("layers") or []
        return [int(layer["after"]) for layer in layers], [int(layer["before"]) for layer in layers]
    layers = last.get("layers") or []
    widths = [int(layer["width"]) for layer in layers]
    return [w - int(layer["dead"]) for w, layer in zip(widths, layers, strict=True)], widths


def structure_tables(run: RunRecord) -> tuple[Table, ...]:
    """What the removal of units brought, where there was one."""
    record = run.last("compact")
    return (compact_table(record),) if record else ()


def compact_table(record: Mapping[str, Json]) -> Table:
    """Units, parameters, operations, bytes and latency before and after; `record` is the event "compact"."""
    rows = [
        (f"units of {layer['name']}", whole(layer["before"]), whole(layer["after"]), _times(layer))
        for layer in record.get("layers") or ()
    ]
    counts = (("parameters", "parameters"), ("multiply-adds per step", "macs_per_token"))
    rows += [_line(name, record[key], whole) for name, key in counts if key in record]
    rows += [_line(name, pair, size) for name, pair in (record.get("bytes") or {}).items()]
    rows += [_line(name, pair, milliseconds) for name, pair in _latencies(record)]
    title = f"{record.get('source', '')}: before and after the removal of units"
    return Table(("", "before", "after", "smaller"), tuple(rows), title=title)


def proof_sentence(record: Mapping[str, Json]) -> str:
    """What was compared, and how large the largest difference was."""
    found = three(number(record.get("difference")))
    weak = number(record.get("weak"))
    source = " (random ones, for the data were not at hand)" if record.get("read") == "random input" else ""
    given = f" {whole(weak)} units were not 0, but had norms below {record.get('tol')}." if weak else ""
    compared = f"{whole(record.get('numbers'))} numbers of {record.get('batches')} batches{source}"
    return (
        f"The largest difference between the outputs of both models in float64 is {found}, over "
        f"{compared} with carried state; the loss "
        f"differs by {three(number(record.get('loss_difference')))} nats.{given}"
    )


def _line(name: str, pair: Sequence[Json], show: Callable[[Json], str]) -> tuple[str, str, str, str]:
    before, after = pair
    return name, show(before), show(after), ratio(after, before)


def _times(layer: Mapping[str, Json]) -> str:
    return ratio(layer["after"], layer["before"])


def _latencies(record: Mapping[str, Json]) -> list[tuple[str, tuple[Json, Json]]]:
    """(label, (before, after)) for each batch size that was measured."""
    times = {(row["runtime"], row["batch"]): row["ms_per_token"] for row in record.get("latency") or ()}
    batches = sorted({batch for _, batch in times})
    return [
        (f"time per step, batch {batch}", (times.get(("before", batch)), times.get(("after", batch))))
        for batch in batches
    ]


def _same_widths(events: list[Event]) -> list[Event]:
    """The last events that are about layers of one width: units may have been removed before."""
    widths = [[layer["width"] for layer in event.get("layers") or ()] for event in events]
    return [event for event, own in zip(events, widths, strict=True) if own == widths[-1]]


def _living_chart(events: list[Event]) -> Figure | None:
    names = [str(layer["name"]) for layer in events[-1]["layers"]] if events else []
    series = [
        Series(name, column(events, "epoch"), [_living(event, k) for event in events], k % 8)
        for k, name in enumerate(names)
    ]
    return chart("Living units", series, Axes("units", zero=True)) if len(events) > 1 else None


def _living(event: Event, position: int) -> float:
    layers = event.get("layers") or []
    if position >= len(layers):
        return float("nan")
    return number(layers[position].get("width")) - number(layers[position].get("dead"))


def _norms_picture(name: str, events: list[Event]) -> Figure | None:
    """Epochs run to the right, units down, the strongest at the end on top; whatever is not 0 has some colour."""
    layers = [layer for event in events for layer in event["layers"] if layer["name"] == name]
    if not layers or any(len(layer.get("norms") or ()) != layer["width"] for layer in layers):
        return None
    norms = torch.tensor([layer["norms"] for layer in layers], dtype=torch.float32).t()
    ordered = norms[torch.argsort(norms[:, -1], descending=True, stable=True)]
    top = max(float(ordered.max()), 1e-9)
    width, dead = layers[-1]["width"], layers[-1]["dead"]
    return Figure(
        title=f"Norms of {name}",
        unit=f"{whole(width - dead)} of {whole(width)} units live",
        body=_image(_cells(_shades(ordered / top)), 0, HEIGHT) + _epochs(events),
        alt=f"Norm of each unit of {name} after each epoch; {dead} of {width} are 0 at the end.",
        height=HEIGHT,
        bottom=22,
        caption=f"A line is a unit, the strongest on top. Full colour: norm {three(top)}; paler: less; blank: dead.",
    )


def _shades(norms: Tensor) -> Tensor:
    """Opacities of norms between 0 and 1: a weak unit that lives must not look like a dead one."""
    return (PALEST + (1 - PALEST) * norms.sqrt()).masked_fill(norms == 0, 0.0)


def _cells(values: Tensor) -> Tensor:
    """At most `CELLS` means of neighbours."""
    grid = min(values.shape[0], CELLS[0]), min(values.shape[1], CELLS[1])
    return torch.nn.functional.adaptive_avg_pool2d(values[None], grid)[0]


def _epochs(events: list[Event]) -> str:
    first, last = (whole(event.get("epoch")) for event in (events[0], events[-1]))
    y = HEIGHT + 15
    return (
        f'<text class="tick" x="0" y="{y}">epoch {first}</text>'
        f'<text class="tick" x="100%" y="{y}" text-anchor="end">{last}</text>'
    )


def _left(run: RunRecord) -> list[tuple[str, list[bool]]]:
    """For each layer its name and, for every unit, whether it lives: by the removal, else by the last norms."""
    record = run.last("compact")
    if record.get("kept"):
        layers = zip(record["layers"], record["kept"], strict=True)
        return [(str(one["name"]), _flags(one["before"], kept)) for one, kept in layers]
    events = run.of("units")
    found = events[-1]["layers"] if events else []
    return [(str(one["name"]), [norm > 0 for norm in one.get("norms") or ()]) for one in found]


def _flags(width: int, kept: Sequence[int]) -> list[bool]:
    stays = set(kept)
    return [k in stays for k in range(width)]


def _left_picture(layers: list[tuple[str, list[bool]]]) -> Figure | None:
    """A bar for each layer with a stripe for each unit that lives, in the order of the units."""
    shown = [(name, flags) for name, flags in layers if flags]
    if not shown:
        return None
    body = "".join(_bar(name, flags, k * GAP) for k, (name, flags) in enumerate(shown))
    counts = ", ".join(f"{name} {sum(flags)} of {len(flags)}" for name, flags in shown)
    return Figure(
        title="Structure",
        unit="units that live",
        body=body,
        alt=f"Which units of each layer live: {counts}.",
        height=GAP * len(shown),
        bottom=8,
        caption="A stripe is a unit, in the order in which the layer had them.",
    )


def _bar(name: str, flags: Sequence[bool], y: int) -> str:
    cells = torch.tensor([flags], dtype=torch.float32)
    text = f"{escape(name)}: {whole(sum(flags))} of {whole(len(flags))}"
    return f'<text class="tick" x="0" y="{y + 11}">{text}</text>' + _image(cells, y + 16, BAR)


def _image(opacity: Tensor, y: int, height: int) -> str:
    data = base64.b64encode(png(opacity, INK)).decode("ascii")
    return (
        f'<image href="data:image/png;base64,{data}" y="{y}" width="100%" height="{height}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
        f'<rect class="frame" y="{y}" width="100%" height="{height}"/>'
    )
