"""Runs of the same settings with several seeds, taken together: mean, spread, and which differences are larger."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.story.facts import gather, metric_name
from sparsernn.report.story.formats import MISSING, flatten, plain, quality
from sparsernn.report.story.history import RunRecord
from sparsernn.report.story.tables import NOT_SETTINGS, Table

FREE = (
    *NOT_SETTINGS,
    *("seed", "log_every", "checkpoint_seconds", "threads", "device", "deterministic", "cuda_graphs", "log"),
)
"""What may differ between runs of one row: it changes the draw, or nothing."""


NOTE = (
    "Runs that differ in the seed alone share a row: mean ± sample standard deviation. Where a difference from the "
    "best row is not larger than the spread of either, the table says “no difference”."
)

TITLE = "Mean and spread over seeds"
VERDICTS = {None: "one seed", True: "worse", False: "no difference"}
DIVERGED = "diverged"


@dataclass(frozen=True)
class Sample:
    """One figure over several seeds.

    Attributes:
        values: the figure of each run that has it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean; NaN of none, and no finite number where one of them is none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """Their sample standard deviation; None of fewer than two, or where one is no finite number."""
        return statistics.stdev(self.values) if len(self.values) > 1 and math.isfinite(self.mean) else None

    def place(self, metric: str) -> tuple[bool, float]:
        """What rows are sorted by, best first; those without a finite mean come last.

        >>> samples = [Sample((math.nan,)), Sample((0.5,)), Sample((0.9,))]
        >>> [sample.mean for sample in sorted(samples, key=lambda sample: sample.place("accuracy"))]
        [0.9, 0.5, nan]
        """
        if not math.isfinite(self.mean):
            return True, 0.0
        return False, self.mean * (-1 if row_of(metric).higher_is_better else 1)

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


def verdict(one: Sample, best: Sample) -> str:
    """What a table says of a row beside its best one.

    >>> verdict(Sample((3.0, 3.1)), Sample((1.0, 1.2))), verdict(Sample((1.0, math.inf)), Sample((1.0, 1.2)))
    ('worse', 'diverged')
    """
    if one.values and not math.isfinite(one.mean):
        return DIVERGED
    return "best" if one is best else VERDICTS[differs(one, best)]


def seeds_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """One row for each setting that was run: what was varied, how many seeds, validation, test, the verdict.

    The spread is the sample standard deviation over seeds. Beside the best row stand those whose difference from it
    is not larger than the spread of either ("no difference").

    Args:
        runs: any run folders; those whose recipes differ in the seed alone share a row if they read the same data. Of
            several with one seed the last counts.

    Returns:
        A table, best row first, for each metric and data of which two runs share a row.
    """
    kinds = comparable(runs)
    made = [_table(kind, title_of(kind[0]) if len(kinds) > 1 else TITLE) for kind in kinds]
    return [table for table in made if table is not None]


def comparable(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that are judged by one metric on the same data, together."""
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        kinds.setdefault((metric_name(run), *data_of(run)), []).append(run)
    return list(kinds.values())


def title_of(run: RunRecord) -> str:
    """The title of a table of such runs, where there are others."""
    name, digest = data_of(run)
    return f"{TITLE}: {name}{f' (sha256 {digest[:8]})' if digest else ''}"


def data_of(run: RunRecord) -> tuple[str, str]:
    """The corpus of a run, or its task where it makes its own data, and the hash of its training split."""
    data, task = run.environment.get("data") or {}, run.recipe.get("task")
    made_of = task.get("name") if isinstance(task, Mapping) else ""
    return str(data.get("name") or made_of or ""), str((data.get("sha256") or {}).get("train") or "")


def _table(runs: Sequence[RunRecord], title: str) -> Table | None:
    """The table of runs that can be compared; None where no two share a row."""
    groups = _groups(runs)
    if max(map(len, groups), default=0) < 2:
        return None
    varied, metric = _varied(runs), metric_name(runs[0])
    rows = sorted((_row(group, varied) for group in groups), key=lambda row: row.valid.place(metric))
    label = row_of(metric).label
    columns = (*varied, "seeds", f"valid {label}", f"test {label}", "beside the best")
    cells = tuple(row.cells(metric, rows[0]) for row in rows)
    text = (*range(len(varied)), len(columns) - 1)
    return Table(columns, cells, text=text, title=title)


@dataclass(frozen=True)
class _Row:
    settings: tuple[str, ...]
    count: int
    valid: Sample
    test: Sample

    def cells(self, metric: str, best: "_Row") -> tuple[str, ...]:
        figures = (str(self.count), self.valid.shown(metric), self.test.shown(metric))
        return (*self.settings, *figures, verdict(self.valid, best.valid))


def _row(group: Sequence[RunRecord], varied: Sequence[str]) -> _Row:
    judged = [gather(run).quality for run in group]
    settings = tuple(plain(row_settings(group[0].recipe).get(key)) for key in varied) if varied else ()
    return _Row(
        settings,
        len(group),
        Sample(tuple(q.valid for q in judged if q.valid is not None)),
        Sample(tuple(q.test for q in judged if q.test is not None)),
    )


def _groups(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that differ in the seed alone, together; one for each seed."""
    groups: dict[str, dict[str, RunRecord]] = {}
    for run in runs:
        row = groups.setdefault(repr(sorted(row_settings(run.recipe).items())), {})
        row[repr(run.recipe.get("seed"))] = run
    return [list(row.values()) for row in groups.values()]


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
