"""The charts of one run, from its events. A chart whose events are missing is left out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from sparsernn.core.metrics import Metric
from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.charts.chart import Axes, Band, Marks, Series, chart
from sparsernn.report.charts.svg import COLOURS, Figure
from sparsernn.report.story.facts import (
    best_epoch,
    counts_name,
    metric_name,
    plan_of,
    scored_epochs,
    valid_value,
)
from sparsernn.report.story.formats import quality
from sparsernn.report.story.history import Event, RunRecord, mask_events, number, tensors_now

POINTS = 240  # most points of a curve by steps: about one every two pixels, so thinning hides nothing
MOST_TENSORS = 12  # most small charts on a page; the table beside them names every tensor
LEAST = 0.04  # smallest range of densities shown: less is rounding, not change
MOST_RUG = 300  # more mask updates than this are a solid bar, not ticks


def training_charts(run: RunRecord) -> list[Figure]:
    """Loss and validation figure by epoch, learning rate, gradient norm and speed by step."""
    steps, marks = run.of("step"), marks_of(run)
    found = [
        _loss_chart(run, marks),
        _valid_chart(run, marks),
        _step_chart("Learning rate", "per step", steps, "lr", 0, log=True),
        _step_chart("Gradient norm", "mean before clipping", steps, "grad_norm", 1, log=True),
        _step_chart("Speed", f"{counts_name(run)} per second", steps, "tokens_per_second", 2, zero=True),
    ]
    return [figure for figure in found if figure is not None]


def marks_of(run: RunRecord) -> Marks:
    """The averaging switch as a line, mask updates as a rug; positions in epochs."""
    switches = tuple(
        (number(e.get("epoch")), f"averaging from epoch {e.get('epoch')}") for e in run.of("switch")
    )
    rug = [epoch_of(run, event) for event in run.of("rewire")]
    rug = rug[:: 1 + len(rug) // MOST_RUG]
    return Marks(switches, tuple(p for p in rug if math.isfinite(p)), "mask update")


def epoch_of(run: RunRecord, event: Event) -> float:
    """Where an event lies on the axis of epochs: by its step where the plan is known, else by its epoch."""
    steps = number(plan_of(run).get("steps_per_epoch"))
    at = number(event.get("step")) / steps if steps > 0 else math.nan
    return at if math.isfinite(at) else number(event.get("epoch"))


def column(events: Iterable[Mapping[str, Json]], key: str) -> list[float]:
    """One figure of many events; NaN where it is missing."""
    return [number(event.get(key)) for event in events]


def tensor_names(run: RunRecord) -> list[str]:
    """Masked tensors in the order of the plan, then those that only mask updates name."""
    planned = [row["name"] for row in plan_of(run).get("tensors") or [] if _is_masked(row)]
    updated = tensors_now(run)
    return list(dict.fromkeys([*planned, *updated]))


def thin(
    x: Sequence[float], y: Sequence[float], most: int = POINTS
) -> tuple[list[float], list[float], Band | None]:
    """Means of neighbouring points, at most `most` of them, and the band between their extremes.

    Example:
        >>> thin([0.0, 1, 2, 3], [1.0, 3, 5, 7], most=2)[:2]
        ([0.5, 2.5], [2.0, 6.0])
    """
    if len(x) <= most:
        return list(x), list(y), None
    cuts = [round(k * len(x) / most) for k in range(most + 1)]
    xs = [_mean(x[a:b]) for a, b in pairwise(cuts)]
    band = Band(xs, [min(y[a:b]) for a, b in pairwise(cuts)], [max(y[a:b]) for a, b in pairwise(cuts)])
    return xs, [_mean(y[a:b]) for a, b in pairwise(cuts)], band


def gate_colours(gates: Iterable[str]) -> dict[str, int]:
    """The colour of each gate: the same for the same gate on the whole page."""
    return {gate: position % COLOURS for position, gate in enumerate(dict.fromkeys(gates))}


def density_charts(run: RunRecord) -> list[Figure]:
    """Density of every masked tensor over the run, or of every one that a penalty brings zeros into."""
    rewires = mask_events(run)
    x = _positions(run, rewires)
    series = [
        Series(name, x, _history(run, rewires, name, "density"), k % COLOURS)
        for k, name in enumerate(tensor_names(run)[:MOST_TENSORS])
    ]
    figure = (
        chart("Density per tensor", series, Axes("active fraction", least=LEAST), marks=_lines_only(run))
        if rewires
        else None
    )
    return [figure] if figure else []


def gate_charts(run: RunRecord) -> list[Figure]:
    """Density of every gate over the run, one chart per tensor that has gates."""
    rewires, figures = run.of("rewire"), []
    x = _positions(run, rewires)
    tensors = run.last("rewire").get("tensors") or {}
    colours = gate_colours(gate for row in tensors.values() for gate in row.get("gates") or {})
    for name, row in list(tensors.items())[:MOST_TENSORS]:
        series = [
            Series(gate, x, _gate_history(run, rewires, name, gate), colours[gate], tag=gate)
            for gate in row.get("gates") or {}
        ]
        figures.append(chart(name, series, Axes("density per gate", least=LEAST), height=150))
    return [figure for figure in figures if figure]


def gate_means(run: RunRecord) -> dict[str, tuple[list[float], list[float]]]:
    """Positions and densities of each gate over the run, means over the tensors that have it, by their size."""
    rewires = run.of("rewire")
    x = _positions(run, rewires)
    having: dict[str, list[tuple[float, list[float]]]] = {}
    for name, row in (run.last("rewire").get("tensors") or {}).items():
        for gate in row.get("gates") or {}:
            history = _gate_history(run, rewires, name, gate)
            having.setdefault(gate, []).append((number(row.get("numel")), history))
    return {gate: (x, _weighted_mean(histories)) for gate, histories in having.items()}


def _weighted_mean(histories: Sequence[tuple[float, list[float]]]) -> list[float]:
    total = sum(size for size, _ in histories)
    columns = zip(*([size * y for y in history] for size, history in histories), strict=True)
    return [sum(column) / total if total > 0 else math.nan for column in columns]


def exploration(run: RunRecord) -> tuple[list[float], list[float]]:
    """Positions and shares of the masked positions that were active at least once; at the start the density."""
    rewires, plan = run.of("rewire"), plan_of(run)
    masked = number(plan.get("masked_total"))
    first = number(plan.get("masked_active")) / masked if masked > 0 else math.nan
    return _positions(run, rewires), [first, *column(rewires, "exploration")]


def rewiring_charts(run: RunRecord) -> list[Figure]:
    """Exploration, prune rate and churn at every mask update."""
    rewires = run.of("rewire")
    x = [epoch_of(run, event) for event in rewires]
    churn = [weighted(event, "churn") for event in rewires]
    explored = [Series("all masked tensors", *exploration(run), 7, tag="")] if rewires else []
    explored += [
        Series(name, x, [number(_row(e, name).get("exploration")) for e in rewires], k % COLOURS)
        for k, name in enumerate(tensor_names(run)[:7])
    ]
    rates = [
        Series("prune rate", x, column(rewires, "prune_rate"), 0, "dashed"),
        Series("churn", x, churn, 1),
    ]
    again = [_share(event, "returned", "pruned") for event in rewires]
    found = [
        chart("Exploration", explored, Axes("positions ever active"), caption=EXPLORATION),
        chart("Prune rate and churn", rates, Axes("fraction", zero=True), caption=CHURN),
        chart("Returned at once", [Series("", x, again, 2)], Axes("fraction", zero=True), caption=RETURNED),
    ]
    return [figure for figure in found if figure]


EXPLORATION = "Share of the positions of the masked tensors that were active at least once so far."
CHURN = (
    "Churn: positions whose mask differs before and after an update; what returned at once did not change."
)
RETURNED = "Share of the pruned weights that the same update grew back, at the same place."
LOSS = "Training loss is measured under dropout, validation loss is not: the two are not comparable."


def weighted(event: Event, key: str) -> float:
    """Mean of a tensor's figure over the masked positions of one mask update; NaN where nothing is known."""
    rows = [(number(r.get(key)), number(r.get("numel"))) for r in (event.get("tensors") or {}).values()]
    good = [(value, size) for value, size in rows if math.isfinite(value) and size > 0]
    return sum(v * s for v, s in good) / sum(s for _, s in good) if good else math.nan


def _share(event: Event, part: str, whole: str) -> float:
    rows = list((event.get("tensors") or {}).values())
    total = sum(number(row.get(whole)) for row in rows)
    return sum(number(row.get(part)) for row in rows) / total if total > 0 else math.nan


def _loss_chart(run: RunRecord, marks: Marks) -> Figure | None:
    steps, epochs, scored = run.of("step"), run.of("epoch"), scored_epochs(run)
    x, y, band = thin([epoch_of(run, event) for event in steps], column(steps, "loss"))
    series = [
        Series("training", x, y, 7) if len(x) > 1 else Series("training", *_pair(epochs, "train_loss"), 7),
        Series("validation", column(scored, "epoch"), [valid_value(e, "loss") for e in scored], 0),
    ]
    bands = [Band(band.x, band.low, band.high, 7)] if band else []
    return chart(
        "Loss",
        series,
        Axes(f"nats per {counts_name(run).removesuffix('s')}"),
        bands=bands,
        marks=marks,
        caption=LOSS,
    )


def _valid_chart(run: RunRecord, marks: Marks) -> Figure | None:
    epochs, best, metric = scored_epochs(run), best_epoch(run), row_of(metric_name(run))
    values, (value,) = metric_values(run, epochs), metric_values(run, [best])
    at = number(best.get("epoch"))
    series = [
        Series("validation", column(epochs, "epoch"), values, 0),
        Series(f"best: {quality(value)} at epoch {at:g}", [at], [value], 1, "dots"),
    ]
    log = wide(values, metric)
    unit = ("higher" if metric.higher_is_better else "lower") + " is better" + (", log scale" if log else "")
    return chart(f"Validation {metric.axis}", series, Axes(unit, log=log), marks=marks)


def metric_values(run: RunRecord, events: Iterable[Event], metric: str = "") -> list[float]:
    """The validation figures of epochs as they are drawn, shares in per cent; by the run's own metric if not told."""
    name = metric or metric_name(run)
    return [row_of(name).scale * valid_value(event, name) for event in events]


def wide(values: Iterable[float], metric: Metric) -> bool:
    """Whether the figures lie so far apart that a log scale shows them better; shares never do.

    >>> wide([100.0, 900.0], row_of("perplexity")), wide([1.0, 90.0], row_of("accuracy"))
    (True, False)
    """
    good = [value for value in values if math.isfinite(value) and value > 0]
    return metric.scale == 1 and bool(good) and max(good) > 2 * min(good)


def _step_chart(
    title: str, unit: str, steps: list[Event], key: str, colour: int, *, log: bool = False, zero: bool = False
) -> Figure | None:
    x, y, band = thin(column(steps, "step"), column(steps, key))
    good = [v for v in y if math.isfinite(v)]
    log = log and bool(good) and min(good) > 0 and max(good) > 8 * min(good)
    bands = [Band(band.x, band.low, band.high, colour)] if band else []
    axes = Axes(unit + (", log scale" if log else ""), "step", log=log, zero=zero)
    return chart(title, [Series("", x, y, colour)], axes, bands=bands, height=150)


def _positions(run: RunRecord, rewires: list[Event]) -> list[float]:
    """Positions of the densities: the start of the run, then each mask update."""
    return [0.0, *(epoch_of(run, event) for event in rewires)]


def _history(run: RunRecord, rewires: list[Event], name: str, key: str) -> list[float]:
    planned = {row["name"]: row for row in plan_of(run).get("tensors") or []}
    return [
        number(planned.get(name, {}).get(key)),
        *(number(_row(event, name).get(key)) for event in rewires),
    ]


def _gate_history(run: RunRecord, rewires: list[Event], name: str, gate: str) -> list[float]:
    """The first value is the plan's where that gives densities of gates; else the curve starts later."""
    planned = {row["name"]: row.get("gate_density") for row in plan_of(run).get("tensors") or []}.get(name)
    first = number(planned.get(gate)) if isinstance(planned, Mapping) else math.nan
    return [first, *(number((_row(event, name).get("gates") or {}).get(gate)) for event in rewires)]


def _row(event: Event, name: str) -> Mapping[str, Json]:
    return (event.get("tensors") or {}).get(name) or {}


def _lines_only(run: RunRecord) -> Marks:
    return Marks(marks_of(run).lines)


def _is_masked(row: Mapping[str, Json]) -> bool:
    return number(row.get("density")) < 1.0


def _pair(events: list[Event], key: str) -> tuple[list[float], list[float]]:
    return column(events, "epoch"), column(events, key)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
