"""Quality over seeds against size, a dot for each setting."""

from collections.abc import Sequence

from sparsernn.core.metrics import metric as row_of
from sparsernn.report.charts.chart import Axes, Series, chart
from sparsernn.report.charts.svg import COLOURS, Figure
from sparsernn.report.story.obtained import Obtained
from sparsernn.report.story.result_tables import Group, caption, grouped, kinds, over_seeds

FEWEST = 2
"""Dots that make a picture."""


def size_chart(results: Sequence[Obtained]) -> Figure | None:
    """The test figure against the active parameters, with the spread over seeds as a line through the dot.

    Only results of one corpus, metric and machine can stand in one picture: the kind that has most settings is drawn.
    None where fewer than two settings have a size.
    """
    drawn = [[g for g in grouped(kind) if g[0].active] for kind in kinds(results)]
    groups = max(drawn, key=len, default=[])
    if len(groups) < FEWEST:
        return None
    sizes = [group[0].active or 0 for group in groups]
    series = [part for k, group in enumerate(groups) for part in _point(k, group)]
    axes = Axes(
        f"test {row_of(groups[0][0].metric).axis}",
        "active parameters",
        x_log=max(sizes) > 4 * min(sizes),
        x_zero=False,
    )
    return chart("Quality and size", series, axes, height=300, caption=caption(groups[0][0]))


def _point(position: int, group: Group) -> list[Series]:
    """A dot with its number, and the line of its spread where there are several seeds."""
    test, scale = over_seeds(group, "test"), row_of(group[0].metric).scale
    colour, size = position % COLOURS, float(group[0].active or 0)
    name = f"{position + 1} {group[0].label}, n = {len(group)}"
    dot = Series(name, [size], [scale * test.mean], colour, "dots", tag=str(position + 1))
    if test.spread is None:
        return [dot]
    ends = [scale * (test.mean - test.spread), scale * (test.mean + test.spread)]
    return [dot, Series("", [size, size], ends, colour)]
