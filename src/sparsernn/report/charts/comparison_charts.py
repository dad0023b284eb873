"""Charts that put several runs side by side. A run keeps its number and its colour on the whole page."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from markupsafe import escape

from sparsernn.core.metrics import metric as row_of
from sparsernn.report.charts.chart import Axes, Series, chart
from sparsernn.report.charts.run_charts import (
    EXPLORATION,
    LEAST,
    column,
    exploration,
    gate_colours,
    gate_means,
    metric_values,
    wide,
)
from sparsernn.report.charts.scale import Scale, scale_for
from sparsernn.report.charts.svg import COLOURS, Figure, grid
from sparsernn.report.story.facts import Facts, batch_of, metric_name, scored_epochs, step_name
from sparsernn.report.story.history import RunRecord, number

LETTER = 7  # pixels: about as wide as a letter of the names of gates
ROW = 17  # pixels between the rows of the gate picture: one line of letters
Legend = tuple[tuple[str, str, str], ...]


def run_labels(runs: Sequence[RunRecord]) -> list[str]:
    """'1 name', '2 name' ...: the number makes runs of one name different, and marks points in charts."""
    return [f"{position} {run.name}" for position, run in enumerate(runs, 1)]


def cost_charts(runs: Sequence[RunRecord], facts: Sequence[Facts]) -> list[Figure]:
    """Quality against active parameters and against latency, a chart for each runtime: one numbered dot per run."""
    found = [_scatter(runs, facts, "Quality and size", "active parameters", lambda f: number(f.size.active))]
    for runtime, batch in shared_runtimes(facts):
        measured = partial(_latency, runtime=runtime, batch=batch)
        label = f"ms per {step_name(facts)}, {runtime}, batch {batch}"
        found.append(_scatter(runs, facts, f"Quality and speed, {runtime}", label, measured))
    return [figure for figure in found if figure]


def shared_runtimes(facts: Sequence[Facts]) -> list[tuple[str, int]]:
    """The (runtime, batch) that is some run's fastest, and was measured for all: no axis has two of them."""
    wanted = [(str(row["runtime"]), batch_of(row)) for row in (f.cost.fastest for f in facts) if row]
    known = [{(str(row.get("runtime")), batch_of(row)) for row in f.cost.latency} for f in facts]
    return [pair for pair in dict.fromkeys(wanted) if all(pair in own for own in known)]


def sparsity_charts(runs: Sequence[RunRecord]) -> list[Figure]:
    """Exploration over time, all runs in one chart."""
    series = [
        Series(label, *exploration(run), k % COLOURS, *_style(k))
        for k, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True))
        if run.of("rewire")
    ]
    figure = chart("Exploration", series, Axes("positions ever active"), caption=EXPLORATION)
    return [figure] if figure else []


def gate_comparison(runs: Sequence[RunRecord]) -> list[Figure]:
    """Gates of all runs: over time, one chart per run, all on one scale; then where they are now."""
    found = {label: gate_means(run) for label, run in zip(run_labels(runs), runs, strict=True)}
    shown = [
        y for gates in found.values() for _, values in gates.values() for y in values if math.isfinite(y)
    ]
    axes = Axes("density per gate", least=LEAST, shown=(min(shown), max(shown)) if shown else ())
    colours = gate_colours(gate for gates in found.values() for gate in gates)
    over_time = [
        chart(
            label,
            [Series(gate, *points, colours[gate], tag=gate) for gate, points in gates.items()],
            axes,
            caption=MEANS,
        )
        for label, gates in found.items()
    ]
    return [figure for figure in (*over_time, _gates_now(runs)) if figure]


MEANS = "Means over the tensors that have the gate."


def _gates_now(runs: Sequence[RunRecord]) -> Figure | None:
    """Density of every gate of every tensor now: one row per gate, one dot per run; None without gates."""
    found = [_gates(run) for run in runs]
    keys = list(dict.fromkeys(key for gates in found for key in gates))
    values = [value for gates in found for value in gates.values()]
    if not values:
        return None
    rows = _rows(keys)
    height = ROW * len(rows) + 8
    x = scale_for([0.0, *values], padded=True, floor=0.0)
    body = grid(x, scale_for([0.0, 1.0]), height, "density").split('<line class="axis"', 1)
    dots = [_dots(found, row, at, x) for at, row in enumerate(rows)]
    return Figure(
        title="Density per gate",
        unit="after the last mask update",
        body='<line class="axis"' + body[1] + "".join(dots),
        alt="Density of each gate of each tensor, one dot per run; the figures are in each run's own report.",
        height=height,
        legend=tuple(row for row, gates in zip(_legend(runs), found, strict=True) if gates),
        left=max(30, 14 + LETTER * max(len(gate) for _, gate in keys)),
    )


def curves(runs: Sequence[RunRecord]) -> Figure | None:
    """The validation curves of all runs over each other, by the metric of the first."""
    metric = metric_name(runs[0])
    series = [
        Series(
            label,
            column(scored_epochs(run), "epoch"),
            metric_values(run, scored_epochs(run), metric),
            k % COLOURS,
            *_style(k),
        )
        for k, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True))
    ]
    log = wide([v for s in series for v in s.y], row_of(metric))
    title = f"Validation {row_of(metric).axis}"
    return chart(title, series, Axes("log scale" if log else "", log=log), height=240)


def _style(position: int) -> tuple[str, str]:
    """Look and tag of a run's curve: when the colours are used up, they come again with dashes."""
    return ("line" if position < COLOURS else "dashed"), str(position + 1)


def _scatter(
    runs: Sequence[RunRecord],
    facts: Sequence[Facts],
    title: str,
    x_label: str,
    measure: Callable[[Facts], float],
) -> Figure | None:
    split = "test" if all(f.quality.test is not None for f in facts) else "validation"
    metric = facts[0].quality.metric
    points = [(measure(f), _score(f, split, metric)) for f in facts]
    labels = run_labels(runs)
    good = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(good) < 2:
        return None
    x_log = max(x for x, _ in good) > 4 * min(x for x, _ in good) > 0
    series = [
        Series(label, [x], [y], k % COLOURS, "dots", tag=str(k + 1))
        for k, (label, (x, y)) in enumerate(zip(labels, points, strict=True))
    ]
    return chart(
        title,
        series,
        Axes(f"{split} {row_of(metric).axis}", x_label, x_log=x_log, x_zero=False),
        height=240,
    )


def _score(facts: Facts, split: str, metric: str) -> float:
    """A run's figure as it is drawn; NaN where it is judged by another metric."""
    judged = facts.quality
    value = number(judged.test if split == "test" else judged.valid)
    return row_of(metric).scale * value if judged.metric == metric else math.nan


def _latency(facts: Facts, runtime: str, batch: int) -> float:
    rows = [row for row in facts.cost.latency if (row.get("runtime"), batch_of(row)) == (runtime, batch)]
    return number(rows[0].get("ms_per_token")) if rows else math.nan


def _gates(run: RunRecord) -> dict[tuple[str, str], float]:
    tensors = run.last("rewire").get("tensors") or {}
    return {
        (name, gate): number(density)
        for name, row in tensors.items()
        for gate, density in (row.get("gates") or {}).items()
        if math.isfinite(number(density))
    }


def _rows(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """A heading ('tensor', '') before the gates of each tensor."""
    gates: dict[str, list[str]] = {}
    for tensor, gate in keys:
        gates.setdefault(tensor, [""]).append(gate)
    return [(tensor, gate) for tensor, found in gates.items() for gate in found]


def _dots(found: Sequence[dict[tuple[str, str], float]], row: tuple[str, str], at: int, x: Scale) -> str:
    y = ROW * at + ROW - 3
    tensor, gate = row
    if not gate:
        return f'<text class="group" x="0" y="{y}">{escape(tensor)}</text>'
    rule = f'<line class="grid" x1="0" x2="100%" y1="{y - 4}" y2="{y - 4}"/>'
    text = f'<text class="row" x="-8" y="{y}" text-anchor="end">{escape(gate)}</text>'
    dots = "".join(
        f'<circle class="dot s{k % COLOURS}" cx="{x(gates[row]):.2f}%" cy="{y - 4}" r="4">'
        f"<title>run {k + 1}, {escape(tensor)}, gate {escape(gate)}: {gates[row]:.4f}</title></circle>"
        for k, gates in enumerate(found)
        if row in gates
    )
    return rule + text + dots


def _legend(runs: Sequence[RunRecord]) -> Legend:
    return tuple((f"s{k % COLOURS}", "dots", label) for k, label in enumerate(run_labels(runs)))
