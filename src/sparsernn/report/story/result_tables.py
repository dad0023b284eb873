"""Tables of results over seeds, and the places in pages that hold them."""

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

from sparsernn.core.metrics import metric as row_of
from sparsernn.report.story.formats import whole
from sparsernn.report.story.obtained import Obtained
from sparsernn.report.story.seeds import Sample, verdict
from sparsernn.report.story.tables import Table

Group = Sequence[Obtained]

PLACE = re.compile(r"(<!-- results: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A part of a page that is printed from results: patterns, as `fitting` takes them, between its marks."""
NOTHING = "No run has been kept yet."
NAMED_SEEDS = 3
"""Seeds are listed up to so many that do not follow each other."""
MADE = re.compile(r"-(finetuned\d*|pruned|compact)$")
"""How names of runs end that a command made from another run; no recipe has such a name."""


def renewed(page: str, results: Sequence[Obtained]) -> str:
    """A page with its parts that are printed from results as these say.

    >>> print(renewed("<!-- results: demo/* --><!-- end -->".replace("><", ">" + chr(10) + "<"), []))
    <!-- results: demo/* -->
    <BLANKLINE>
    No run has been kept yet.
    <BLANKLINE>
    <!-- end -->
    """
    return PLACE.sub(lambda found: f"{found[1]}\n{_printed(found[2].split(), results)}\n\n{found[3]}", page)


def _printed(patterns: Sequence[str], results: Sequence[Obtained]) -> str:
    tables = result_tables(fitting(results, patterns))
    return "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in tables) or NOTHING


def fitting(results: Sequence[Obtained], patterns: Sequence[str]) -> list[Obtained]:
    """The results of recipes whose names fit one of some patterns, `budget/*` say.

    A pattern that begins with `!` leaves out runs in which a setting was changed: `!epochs`, `!model.*`. One that
    begins with `+` leaves out those in which it was not.
    """
    names = [pattern for pattern in patterns if not pattern.startswith(("!", "+"))]
    without, needed = ([p[1:] for p in patterns if p.startswith(sign)] for sign in "!+")
    return [
        result
        for result in results
        if _fits(result.recipe, names)
        and not any(_fits(key, without) for key in _changed(result))
        and all(any(_fits(key, [pattern]) for key in _changed(result)) for pattern in needed)
    ]


def _changed(result: Obtained) -> list[str]:
    return [change.partition("=")[0] for change in result.overrides]


def _fits(word: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def result_tables(results: Sequence[Obtained]) -> list[Table]:
    """A table for each corpus, metric and machine, with a row for each setting: best row first.

    A row holds the mean and the sample standard deviation over seeds, as `seeds_tables` has them. The title says what
    data and machine the figures are of, and the command.
    """
    return [_table(kind) for kind in kinds(results)]


def kinds(results: Sequence[Obtained]) -> list[Sequence[Obtained]]:
    """Results that can be compared, together: those of one corpus, metric and machine."""
    found: dict[tuple[str, ...], list[Obtained]] = {}
    for result in results:
        found.setdefault((result.data, result.data_hash, result.metric, result.machine), []).append(result)
    return [found[kind] for kind in sorted(found)]


def grouped(results: Sequence[Obtained]) -> list[Group]:
    """Results that differ in the seed alone, together."""
    groups: dict[tuple[str, ...], list[Obtained]] = {}
    for result in results:
        groups.setdefault(result.row, []).append(result)
    return [sorted(group, key=lambda result: result.seed) for group in groups.values()]


def best_first(groups: Sequence[Group]) -> list[Group]:
    """By the mean of the validation figure; those that have diverged last."""
    return sorted(groups, key=lambda group: over_seeds(group, "valid").place(group[0].metric))


def over_seeds(group: Group, split: str) -> Sample:
    """The figures of a group, `split` being "valid" or "test"."""
    return Sample(tuple(getattr(result, split) for result in group))


def _table(results: Sequence[Obtained]) -> Table:
    metric, groups = row_of(results[0].metric), best_first(grouped(results))
    columns = (
        *("recipe and changes", "seeds", "active parameters", "operations per token"),
        *(f"valid {metric.label}", f"test {metric.label}", "beside the best", "commit"),
    )
    common = shared(groups)
    rows = tuple(_cells(group, groups[0], common) for group in groups)
    return Table(columns, rows, text=(0, 1, 6, 7), title=caption(groups)).without_empty()


def shared(groups: Sequence[Group]) -> tuple[str, ...]:
    """The changes that all of several settings have in common: the title says them once."""
    if len(groups) < 2:
        return ()
    return tuple(change for change in groups[0][0].overrides if all(change in g[0].overrides for g in groups))


def caption(groups: Sequence[Group]) -> str:
    """What the figures of a table are of."""
    one = groups[0][0]
    tokens = f", {one.tokens:,} training tokens" if one.tokens else ""
    changes = " ".join(("[CHANGES]", *map(shlex.quote, shared(groups))))
    digest = f" (sha256 {one.data_hash[:8]})" if one.data_hash else ""
    return (
        f"*{one.data}{tokens}{digest}; {one.machine}; "
        f"`sparsernn train RECIPE {changes} seed=N [--data DIR]`; mean ± standard deviation over seeds.*"
    )


def _cells(group: Group, best: Group, common: Sequence[str]) -> tuple[str, ...]:
    one = group[0]
    valid, test = (over_seeds(group, split) for split in ("valid", "test"))
    told = verdict(valid, valid if group is best else over_seeds(best, "valid"))
    return (
        f"`{one.beside(common)}`{', made from another run' if MADE.search(one.recipe) else ''}",
        f"{len(group)}: {seeds_named([result.seed for result in group])}",
        whole(one.active),
        whole(one.operations),
        valid.shown(one.metric),
        test.shown(one.metric),
        told,
        ", ".join(sorted({result.commit[:7] for result in group} - {""})),
    )


def seeds_named(seeds: Sequence[int]) -> str:
    """Which seeds.

    >>> seeds_named([1, 2, 3, 4]), seeds_named([1111]), seeds_named([1, 5]), seeds_named([1, 3, 5, 7])
    ('1-4', '1111', '1, 5', '1, 3, 5 ...')
    """
    first, last = seeds[0], seeds[-1]
    if len(seeds) > 2 and list(seeds) == list(range(first, last + 1)):
        return f"{first}-{last}"
    rest = " ..." if len(seeds) > NAMED_SEEDS else ""
    return ", ".join(map(str, seeds[:NAMED_SEEDS])) + rest
