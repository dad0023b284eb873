"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from sparsernn.core.metrics import metric
from sparsernn.core.plain import Json
from sparsernn.runs.recipe import Recipe

if TYPE_CHECKING:
    from sparsernn import report


WIDTH_WITH_ABOUT = 130  # the other columns take about 95


def table(*columns: str, title: str | None = None, numbers: Iterable[int] = ()) -> Table:
    """An empty table in the house style; the columns whose positions are in `numbers` are set flush right."""
    made = Table(box=SIMPLE, title=title, title_justify="left", title_style="bold", pad_edge=False)
    right = set(numbers)
    for position, column in enumerate(columns):
        made.add_column(column, justify="right" if position in right else "left", overflow="fold")
    return made


RECIPE_COLUMNS = ("recipe", "method", "corpus", "epochs", "published", "obtained", "about")


def recipes_table(recipes: Sequence[Recipe], width: int) -> Table:
    """One line per recipe: method, corpus, epochs, test results published and obtained here, what it is.

    The last column is left out where `width` has no room for it.
    """
    shown = len(RECIPE_COLUMNS) - (width < WIDTH_WITH_ABOUT)
    made = table(*RECIPE_COLUMNS[:shown], numbers=(3, 4, 5))
    for column in made.columns:
        column.no_wrap = column.header != "about"
    for recipe in recipes:
        made.add_row(*recipe_row(recipe)[:shown])
    return made


def recipe_row(recipe: Recipe) -> tuple[str, ...]:
    """A recipe's cells under `RECIPE_COLUMNS`."""
    results = (_test_result(recipe.published, recipe), _test_result(recipe.obtained, recipe))
    method, corpus = recipe.sparsity["name"], _corpus_name(recipe)
    return (recipe.name, method, corpus, str(recipe.epochs), *results, recipe.about)


def _corpus_name(recipe: Recipe) -> str:
    corpus = recipe.task.get("corpus", "")
    return str(corpus.get("name", "") if isinstance(corpus, Mapping) else corpus)


def _test_result(numbers: Mapping[str, Json], recipe: Recipe) -> str:
    """The test figure by the task's own metric, else the first one there is; with all the digits it is given."""
    wanted = f"test_{recipe.task.get('metric', '')}"
    names = [name for name in (wanted, *numbers) if name in numbers and name.startswith("test_")]
    if not names:
        return ""
    value, scale = numbers[names[0]], metric(names[0].removeprefix("test_")).scale
    return str(value) if scale == 1 else f"{value * scale:.4g} %"


def plan_table(plan: Mapping[str, Json]) -> Table:
    """One line per weight tensor of a plan: shape, active weights, density, gates; a synthesizer's at the end."""
    made = table("tensor", "shape", "active", "density", "gates", numbers=(1, 2, 3))
    for tensor in plan["tensors"]:
        shape = " x ".join(f"{n:,}" for n in tensor["shape"])
        gates = ", ".join(tensor.get("gates") or ())
        made.add_row(tensor["name"], shape, f"{tensor['active']:,}", f"{tensor['density']:.3f}", gates)
    made.add_section()
    for tensor in plan.get("boundary") or ():
        shape = " x ".join(f"{n:,}" for n in tensor["shape"])
        made.add_row(f"synthesizer.{tensor['name']}", shape, f"{tensor['numel']:,}", "", "")
    return made


def plan_lines(plan: Mapping[str, Json]) -> list[str]:
    """What a plan says apart from its tensors: parameters, tokens, steps, time."""
    from sparsernn.report.story.formats import duration

    total, active = plan["parameters_total"], plan["parameters_active"]
    counts = {**plan["examples"], **plan["vocabularies"]}
    lines = [f"parameters  {total:,} dense, {active:,} active ({active / total:.1%})"]
    if plan.get("parameters_idle"):
        lines.append(f"idle        {plan['parameters_idle']:,} of them are counted but never change")
    if plan.get("boundary"):
        beside = sum(tensor["numel"] for tensor in plan["boundary"])
        lines.append(f"synthesizer {beside:,} more parameters, in training only")
    if plan.get("masked_total"):
        masked, held = plan["masked_total"], plan["masked_active"]
        lines.append(f"masked      {masked:,} dense, {held:,} active (density {held / masked:.4f})")
    lines += [f"{'products' if k == 0 else '':<12}{line}" for k, line in enumerate(product_lines(plan))]
    lines.append(f"{plan['counts']:<12}" + "   ".join(f"{name} {count:,}" for name, count in counts.items()))
    if plan.get("note"):
        lines.append(f"note        {plan['note']}")
    lines.append(
        f"steps       {plan['steps']:,} = {plan['epochs']} epoch{'s' * (plan['epochs'] > 1)} x about "
        f"{plan['steps_per_epoch']:,}"
    )
    lines += [
        f"{'phases' if k == 0 else '':<12}{_phase(row)}" for k, row in enumerate(plan.get("phases") or ())
    ]
    if plan.get("device"):
        precision = plan.get("precision", "float32")
        said = "" if precision == "float32" else f", products in {precision}"
        said += ", loops as CUDA graphs" if plan.get("cuda_graphs") else ""
        lines.append(f"device      {plan['device']}{said}")
    if plan.get("no_kernels"):
        lines.append(f"kernels     none, which is slower: {plan['no_kernels']}")
    if plan.get("estimated_seconds") is not None:
        lines.append(f"time        about {duration(plan['estimated_seconds'])} on this machine")
    return lines


def product_lines(plan: Mapping[str, Json]) -> list[str]:
    """How a run multiplies with masked weights, and what it expects of that.

    >>> product_lines({"products": [{"module": "head", "setting": "auto", "sparse": False, "seconds": (0.1, 0.2)}]})
    ['head: dense (auto); no gain: dense is faster at this size']
    """
    from sparsernn.report.story.formats import products

    rows = plan.get("products") or ()
    lines = products(rows)
    if plan.get("clip_over") == "all" and any(row["sparse"] for row in rows):
        lines.append(
            "clipping sees existing weights only where products are sparse; clip_over: existing, everywhere"
        )
    return lines


def _phase(row: Mapping[str, Json]) -> str:
    """One phase of a plan in words.

    >>> _phase({"first": 6, "last": 10, "source": "real", "cycle": [6, 10]})
    'epochs 6-10: real gradient; learning rate falls over epochs 6-10'
    """
    said = [f"{row['source']} gradient"] if row["source"] else []
    said += [f"learning rate falls over epochs {row['cycle'][0]}-{row['cycle'][1]}"] if row["cycle"] else []
    return f"epochs {row['first']}-{row['last']}: {'; '.join(said) or 'learning rate stays'}"


def drawn(data: report.Table) -> Table:
    """A table of the report for the terminal."""
    made = Table(
        box=SIMPLE, title=data.title or None, title_justify="left", title_style="bold", pad_edge=False
    )
    for position, column in enumerate(data.columns):
        made.add_column(column, justify="left" if position in data.text else "right", overflow="fold")
    for row in data.rows:
        made.add_row(*row)
    return made


def latency_rows(measured: Mapping[str, Json], name: str | None = None) -> Table:
    """The table of a "sizes" record: milliseconds per token or time step for each way to compute it."""
    from sparsernn.report.story.formats import milliseconds, size

    window = next((row["window"] for row in measured["latency"] if "window" in row), None)
    told = [name, None if window is None else f"{window} steps in one call"]
    columns = ("runtime", "batch", "per step", "half of the steps", "weights", "against dense")
    made = table(*columns, numbers=range(1, 6), title=", ".join(filter(None, told)) or None)
    for row in measured["latency"]:
        low, high = row["spread_ms"]
        times = (milliseconds(row["ms_per_token"]), f"{milliseconds(low)} to {milliseconds(high)}")
        made.add_row(row["runtime"], str(row["batch"]), *times, size(row["bytes"]), f"{row['ratio']:.2f}x")
    return made
