"""Quality over seeds: against size, a dot for each setting, and epoch by epoch, a curve for each."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sparsernn.core.metrics import metric as row_of
from sparsernn.report.charts.chart import Axes, Band, Series, chart
from sparsernn.report.charts.svg import COLOURS, Figure
from sparsernn.report.story.obtained import Obtained
from sparsernn.report.story.result_tables import (
    Group,
    best_first,
    caption,
    grouped,
    kinds,
    over_seeds,
    shared,
)
from sparsernn.report.story.seeds import Sample

FEWEST = 2
"""Dots that make a picture."""


def size_chart(results: Sequence[Obtained]) -> Figure | None:
    """The test figure against the bytes of a packed file, with the spread over seeds as a line through the dot.

    Numbered from the best on. Only results of one corpus, metric and machine can stand in one picture: the kind
    that has most settings is drawn. None where fewer than two settings have a size.
    """
    groups = best_first(_most(results, lambda group: bool(group[0].packed_bytes)))
    if len(groups) < FEWEST:
        return None
    sizes = [_megabytes(group) for group in groups]
    series = [part for k, group in enumerate(groups) for part in _point(k, group, shared(groups))]
    axes = Axes(
        f"test {row_of(groups[0][0].metric).axis}",
        "MB of a packed file, float32",
        x_log=max(sizes) > 4 * min(sizes),
        x_zero=False,
    )
    return chart("Quality and size", series, axes, height=300, caption=caption(groups))


def curve_chart(results: Sequence[Obtained]) -> Figure | None:
    """The validation figure after each epoch, as the mean over seeds with its spread, best setting first.

    An epoch that not all seeds of a setting have reached is left out. Results are chosen as in `size_chart`.
    None where no setting has two epochs.
    """
    groups = best_first(_most(results, lambda group: len(_means(group)) >= FEWEST))
    if not groups:
        return None
    curves = [_curve(position, group, shared(groups)) for position, group in enumerate(groups)]
    bands = [band for position, group in enumerate(groups) for band in _bands(position, group)]
    metric = row_of(groups[0][0].metric)
    axes = Axes(f"valid {metric.axis}", log=not metric.higher_is_better, x_zero=False)
    return chart("Epoch by epoch", curves, axes, bands=bands, height=300, caption=caption(groups))


def _most(results: Sequence[Obtained], fits: Callable[[Group], bool]) -> list[Group]:
    """The settings of the kind of which most fit."""
    drawn = [[group for group in grouped(kind) if fits(group)] for kind in kinds(results)]
    return max(drawn, key=len, default=[])


def _samples(group: Group) -> list[Sample]:
    scale = row_of(group[0].metric).scale
    epochs = zip(*(result.curve for result in group), strict=False)
    return [Sample(tuple(scale * value for value in epoch)) for epoch in epochs]


def _means(group: Group) -> list[float]:
    return [sample.mean for sample in _samples(group)]


def _curve(position: int, group: Group, common: Sequence[str]) -> Series:
    means, look = _means(group), "line" if position < COLOURS else "dashed"
    name = f"{position + 1} {group[0].beside(common)}, n = {len(group)}"
    epochs = range(1, len(means) + 1)
    return Series(name, epochs, means, position % COLOURS, look, tag=str(position + 1))


def _bands(position: int, group: Group) -> list[Band]:
    """The spread around a curve; none of a single seed."""
    spread = [(k, s.mean, s.spread) for k, s in enumerate(_samples(group), 1) if s.spread is not None]
    if not spread:
        return []
    epochs, means, widths = zip(*spread, strict=True)
    low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
    return [Band(epochs, low, high, position % COLOURS)]


def _megabytes(group: Group) -> float:
    return (group[0].packed_bytes or 0) / 1e6


def _point(position: int, group: Group, common: Sequence[str]) -> list[Series]:
    """A dot with its number, and the line of its spread where there are several seeds."""
    test, scale = over_seeds(group, "test"), row_of(group[0].metric).scale
    colour, size = position % COLOURS, _megabytes(group)
    name = f"{position + 1} {group[0].beside(common)}, n = {len(group)}"
    dot, number = Series(name, [size], [scale * test.mean], colour, "dots"), str(position + 1)
    if test.spread is None:
        return [replace(dot, tag=number)]
    # A line ends where its number stands: in the middle.
    ends = [test.mean - test.spread, test.mean + test.spread, test.mean]
    return [dot, Series("", [size] * 3, [scale * end for end in ends], colour, tag=number)]
