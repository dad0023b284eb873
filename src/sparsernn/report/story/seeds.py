"""Runs of the same settings with several seeds, taken together: mean, spread, and which differences are larger."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.story.facts import gather
from sparsernn.report.story.formats import MISSING, flatten, plain, quality
from sparsernn.report.story.history import RunRecord
from sparsernn.report.story.tables import NOT_SETTINGS, Table

FREE = (*NOT_SETTINGS, "seed", "log_every", "checkpoint_seconds", "threads", "device", "deterministic", "log")
"""What may differ between runs of one row: it changes the draw, or nothing."""


NOTE = (
    "Runs that differ in the seed alone share a row: mean ± sample standard deviation. Where a difference from the "
    "best row is not larger than the spread of either, the table says “no difference”."
)


@dataclass(frozen=True)
class Sample:
    """One figure over several seeds.

    Attributes:
        values: the figure of each run that has it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean; NaN of none."""
        return statistics.fmean(self.values) if self.values else float("nan")

    @property
    def spread(self) -> float | None:
        """Their sample standard deviation; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def shown(self, metric: str) -> str:
        """Mean and spread in the unit of a metric.

        >>> Sample((110.0, 112.0)).shown("perplexity"), Sample((0.9,)).shown("accuracy"), Sample(()).shown("loss")
        ('111.00 ± 1.41', '90.00 %', '–')
        """
        if not self.values:
            return MISSING
        if self.spread is None:
            return quality(self.mean, metric)
        row = row_of(metric)
        return f"{quality(self.mean, metric)} ± {self.spread * row.scale:.2f}"


def differs(one: Sample, other: Sample) -> bool | None:
    """Whether the difference of two means is larger than the larger of the two spreads; None where it cannot be told.

    >>> a, b, c = Sample((1.0, 1.2)), Sample((1.1, 1.3)), Sample((5.0,))
    >>> differs(a, b), differs(a, Sample((2.0, 2.1))), differs(a, c)
    (False, True, None)
    """
    if one.spread is None or other.spread is None:
        return None
    return abs(one.mean - other.mean) > max(one.spread, other.spread)


def seeds_table(runs: Sequence[RunRecord]) -> Table | None:
    """One row for each setting that was run: what was varied, how many seeds, validation, test, the verdict.

    The spread is the sample standard deviation over seeds. Beside the best row stand those whose difference from it
    is not larger than the spread of either ("no difference").

    Args:
        runs: any run folders; those whose recipes differ in the seed alone share a row.

    Returns:
        The table, best row first; None where no two runs share a row.
    """
    groups = _groups(runs)
    if max(map(len, groups.values()), default=0) < 2:
        return None
    varied = _varied(runs)
    rows = [_row(group, varied) for group in groups.values()]
    metric = rows[0].metric
    rows.sort(key=lambda row: row.valid.mean * (-1 if row_of(metric).higher_is_better else 1))
    columns = (
        *varied,
        "seeds",
        f"valid {row_of(metric).label}",
        f"test {row_of(metric).label}",
        "beside the best",
    )
    cells = tuple(row.cells(rows[0]) for row in rows)
    return Table(
        columns, cells, text=(*range(len(varied)), len(columns) - 1), title="Mean and spread over seeds"
    )


@dataclass(frozen=True)
class _Row:
    settings: tuple[str, ...]
    metric: str
    count: int
    valid: Sample
    test: Sample

    def cells(self, best: "_Row") -> tuple[str, ...]:
        figures = (str(self.count), self.valid.shown(self.metric), self.test.shown(self.metric))
        return (*self.settings, *figures, self._verdict(best))

    def _verdict(self, best: "_Row") -> str:
        if self is best:
            return "best"
        return {None: "one seed", True: "worse", False: "no difference"}[differs(self.valid, best.valid)]


def _row(group: Sequence[RunRecord], varied: Sequence[str]) -> _Row:
    judged = [gather(run).quality for run in group]
    settings = tuple(plain(row_settings(group[0].recipe).get(key)) for key in varied) if varied else ()
    return _Row(
        settings,
        judged[0].metric,
        len(group),
        Sample(tuple(q.valid for q in judged if q.valid is not None)),
        Sample(tuple(q.test for q in judged if q.test is not None)),
    )


def _groups(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(row_settings(run.recipe).items())), []).append(run)
    return groups


def row_settings(recipe: Mapping[str, Json]) -> dict[str, Json]:
    """The settings of a recipe that make a row, by dotted path."""
    flat = flatten(dict(recipe))
    return {
        key: repr(value) if isinstance(value, list) else value for key, value in flat.items() if counts(key)
    }


def counts(key: str) -> bool:
    """Whether a setting, by its dotted path, makes another row.

    >>> counts("optimizer.lr"), counts("seed")
    (True, False)
    """
    return key.split(".")[0] not in FREE


def _varied(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The settings in which any two of the runs differ; "run" is their stand-in where none does."""
    trees = [row_settings(run.recipe) for run in runs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return tuple(key for key in keys if len({plain(tree.get(key)) for tree in trees}) > 1)
