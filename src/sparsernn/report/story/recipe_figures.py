"""The figures that recipes show as `obtained`, from results over seeds."""

import math
import re
from collections.abc import Sequence

from sparsernn.core.errors import InputError
from sparsernn.core.metrics import metric as row_of
from sparsernn.report.story.obtained import Obtained, settings_hash
from sparsernn.report.story.result_tables import Group, grouped, over_seeds, seeds_named
from sparsernn.runs.recipe import list_recipes, load_recipe, recipe_file

ENTRY = re.compile(r"^obtained:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def write_figures(results: Sequence[Obtained]) -> list[str]:
    """Write mean and spread into the recipes of the package that were run unchanged, and on most data.

    A recipe that was changed since it was run, or run with other settings, keeps what it has, and so does one of
    which a run diverged.

    Returns:
        The names of the recipes that were written.

    Raises:
        InputError: the package's files cannot be written.
    """
    best: dict[str, Group] = {}
    for group in grouped(results):
        name = group[0].recipe
        if _is_shipped(group[0]) and _finite(group) and _rank(group) > _rank(best.get(name, ())):
            best[name] = group
    for name, group in best.items():
        _write(name, _entry(group))
    return sorted(best)


def _is_shipped(result: Obtained) -> bool:
    if result.recipe not in list_recipes():
        return False
    return settings_hash(load_recipe(result.recipe).settings()) == result.settings


def _finite(group: Group) -> bool:
    return all(math.isfinite(over_seeds(group, split).mean) for split in ("valid", "test"))


def _rank(group: Group) -> tuple[int, int, str]:
    """More data, then more seeds, then the newer runs."""
    if not group:
        return (-1, 0, "")
    return (group[0].tokens or 0, len(group), max(result.started for result in group))


def _entry(group: Group) -> str:
    """The line of a recipe."""
    one = group[0]
    figures = ", ".join(f"{split}_{one.metric}: {_mean(group, split)}" for split in ("valid", "test"))
    return f'obtained: {{{figures}, note: "{_note(group)}"}}\n'


def _mean(group: Group, split: str) -> str:
    value = over_seeds(group, split).mean
    return f"{value:.2f}" if value >= 10 else f"{value:.4f}"


def _note(group: Group) -> str:
    one = group[0]
    tokens = f" with {one.tokens:,} training tokens" if one.tokens else ""
    return f"{_seeds(group)}; {one.data}{tokens}; {one.machine}"


def _seeds(group: Group) -> str:
    named = seeds_named([result.seed for result in group])
    spreads = [over_seeds(group, split).spread for split in ("valid", "test")]
    if None in spreads:
        return f"one run, seed {named}"
    scale = row_of(group[0].metric).scale
    shown = " and ".join(f"{spread * scale:.2f}" for spread in spreads if spread is not None)
    return f"mean of {len(group)} seeds ({named}), standard deviation {shown}"


def _write(name: str, entry: str) -> None:
    path = recipe_file(name)
    text = path.read_text(encoding="utf-8")
    head, blank, settings = ENTRY.sub("", text, count=1).partition("\n\n")
    try:
        path.write_text(f"{head.rstrip()}\n{entry}{blank[1:]}{settings}", encoding="utf-8")
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}.") from None
