"""The tables of a report, as data: the page and the markdown draw the same rows."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.story.facts import (
    Facts,
    batch_of,
    gather,
    metric_name,
    plan_of,
    scored_epochs,
    step_name,
    valid_value,
)
from sparsernn.report.story.formats import (
    MISSING,
    duration,
    flatten,
    fraction,
    milliseconds_spread,
    plain,
    quality,
    ratio,
    size,
    three,
    whole,
)
from sparsernn.report.story.history import Event, RunRecord, load_run, number, tensors_now


@dataclass(frozen=True)
class Table:
    """A table whose cells are finished text.

    Attributes:
        columns: headings.
        rows: cells, as many as headings.
        text: indices of the columns that hold words (they align left; all others are figures).
        title: caption. keys: per row a colour class for the mark before its first cell, or ().
        folded: show it closed, for long tables of detail.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: tuple[int, ...] = (0,)
    title: str = ""
    keys: tuple[str, ...] = ()
    folded: bool = False

    def markdown(self) -> str:
        """The table in markdown.

        >>> print(Table(("run", "test"), (("a|b", "71.65"),)).markdown())
        | run | test |
        | :-- | --: |
        | a\\|b | 71.65 |
        """
        rule = [":--" if k in self.text else "--:" for k in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)

    def _repr_html_(self) -> str:
        """How a notebook shows the table."""
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(map(self._td, range(len(row)), row))}</tr>" for row in self.rows)
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _td(self, column: int, cell: str) -> str:
        side = "left" if column in self.text else "right"
        return f'<td style="text-align: {side}">{html.escape(cell)}</td>'

    def without_empty(self) -> "Table":
        """The table without the columns that say nothing in any row."""
        kept = [k for k in range(len(self.columns)) if any(row[k] not in ("", MISSING) for row in self.rows)]
        return Table(
            columns=tuple(self.columns[k] for k in kept),
            rows=tuple(tuple(row[k] for k in kept) for row in self.rows),
            text=tuple(new for new, old in enumerate(kept) if old in self.text),
            title=self.title,
            keys=self.keys,
            folded=self.folded,
        )


def compare(folders: Sequence[Path | str]) -> Table:
    """One row per run: name, method, density, active weights, bytes, validation, test, latency, products, time.

    Args:
        folders: run folders, at least one.

    Returns:
        A table whose columns without any figure are left out; `.markdown()` prints it.

    Raises:
        InputError: one of them is not a run folder.
    """
    return comparison([gather(load_run(folder)) for folder in folders])


def comparison(facts: Sequence[Facts]) -> Table:
    """The table of `compare` from figures that were gathered before."""
    metrics = list(dict.fromkeys(row_of(f.quality.metric).label for f in facts))
    unit = metrics[0] if len(metrics) == 1 else "metric"
    columns = (
        "run",
        "method",
        "density",
        "active weights",
        "packed",
        f"valid {unit}",
        f"test {unit}",
        f"latency per {step_name(facts)}",
        "products",
        "training",
        "epochs",
    )
    return Table(columns, tuple(_run_row(f) for f in facts), text=(0, 1, 7, 8)).without_empty()


def published(facts: Facts) -> Table | None:
    """What the paper published beside what this run obtained; None where nothing was published."""
    quality_, judged = facts.quality, facts.quality.metric
    rows = [
        ("validation", quality_.published_valid, quality_.valid),
        ("test", quality_.published_test, quality_.test),
    ]
    told = [
        (name, *(quality(value, judged) for value in (theirs, ours)), _difference(theirs, ours, judged))
        for name, theirs, ours in rows
        if theirs is not None
    ]
    name = row_of(judged).label
    return Table((name, "published", "obtained", "difference"), tuple(told)) if told else None


def tensors_table(run: RunRecord) -> Table | None:
    """Every tensor of the plan with its size, its density at the start and now, and its gates now."""
    now = tensors_now(run)
    planned = list(plan_of(run).get("tensors") or [])
    planned += [
        {"name": name, **row} for name, row in now.items() if name not in {p["name"] for p in planned}
    ]
    gates = list(dict.fromkeys(gate for row in now.values() for gate in row.get("gates") or {}))
    rows = tuple(_tensor_row(row, now.get(row["name"]) or {}, gates) for row in planned)
    columns = ("tensor", "shape", "active", "density", "at the start", "explored", *gates)
    return Table(columns, rows).without_empty() if rows else None


def _tensor_row(row: Mapping[str, Json], now: Mapping[str, Json], gates: list[str]) -> tuple[str, ...]:
    shape = " × ".join(whole(n) for n in row.get("shape") or ()) or whole(row.get("numel"))
    per_gate = now.get("gates") or {}
    return (
        str(row["name"]),
        shape,
        whole(now.get("active", row.get("active"))),
        fraction(now.get("density", row.get("density"))),
        fraction(row.get("density")) if now and "shape" in row else MISSING,
        fraction(now.get("exploration")),
        *(fraction(per_gate.get(gate)) for gate in gates),
    )


def rewire_table(run: RunRecord) -> Table | None:
    """One row per mask update, over all tensors together."""
    rows = tuple(_rewire_row(event) for event in run.of("rewire"))
    columns = (
        "update",
        "step",
        "prune rate",
        "density",
        "pruned",
        "grown",
        "returned",
        "exploration",
        "seconds",
    )
    title = "All mask updates"
    return Table(columns, rows, text=(), title=title, folded=True).without_empty() if rows else None


def _rewire_row(event: Event) -> tuple[str, ...]:
    totals = [_total(event, key) for key in ("pruned", "grown", "returned")]
    seconds = event.get("seconds")
    return (
        whole(event.get("update")),
        whole(event.get("step")),
        fraction(event.get("prune_rate")),
        fraction(event.get("density")),
        *totals,
        fraction(event.get("exploration")),
        MISSING if seconds is None else three(number(seconds)),
    )


def _total(event: Event, key: str) -> str:
    values = [row[key] for row in (event.get("tensors") or {}).values() if row.get(key) is not None]
    return whole(sum(values)) if values else MISSING


def epochs_table(run: RunRecord) -> Table | None:
    """Per epoch: training loss, validation, whether averaged, learning rate, seconds."""
    metric = metric_name(run)
    best = gather(run).quality.valid_epoch
    rows = tuple(_epoch_row(event, metric, best) for event in scored_epochs(run))
    name = row_of(metric).label
    columns = ("epoch", "training loss", "validation loss", name, "weights", "learning rate", "trained for")
    return Table(columns, rows, text=(4,), title="All epochs", folded=True).without_empty() if rows else None


def _epoch_row(event: Event, metric: str, best: int | None) -> tuple[str, ...]:
    valid = event.get("valid") if isinstance(event.get("valid"), Mapping) else {}
    return (
        whole(event.get("epoch")),
        quality(event.get("train_loss")),
        quality(valid.get("loss")) if valid else MISSING,
        quality(valid_value(event, metric), metric)
        + (" (best)" if best is not None and event.get("epoch") == best else ""),
        "averaged" if event.get("averaged") else "raw",
        MISSING if event.get("lr") is None else three(number(event["lr"])),
        duration(event.get("seconds")),
    )


def sizes_table(run: RunRecord) -> Table | None:
    """Parameters, bytes and operations per token: dense, here, and how many times smaller."""
    sizes, facts = run.last("sizes"), gather(run).size
    lines = [
        ("parameters", whole(facts.total), whole(facts.active), ratio(facts.active, facts.total)),
        ("in masked tensors", whole(facts.masked_total), whole(facts.masked_active), _masked_ratio(facts)),
        ("model on disk", *_pair(sizes, "dense_bytes", "packed_bytes", size)),
        (
            f"operations per {step_name([gather(run)])}",
            *_pair(sizes, "macs_per_token_dense", "macs_per_token", whole),
        ),
        ("checkpoint with optimizer", "", size(sizes.get("checkpoint_bytes")), ""),
    ]
    rows = tuple(line for line in lines if line[2] != MISSING)
    return Table(("", "dense", "this model", "smaller"), rows) if rows else None


def _masked_ratio(size_: Json) -> str:
    return ratio(size_.masked_active, size_.masked_total)


def _pair(sizes: Event, dense: str, ours: str, show: Callable[[Json], str]) -> tuple[str, str, str]:
    return show(sizes.get(dense)), show(sizes.get(ours)), ratio(sizes.get(ours), sizes.get(dense))


def latency_table(facts: Sequence[Facts]) -> Table | None:
    """Measured latency with its quartiles: one row per run and runtime, one column per batch size."""
    measured = [
        (f"{k} {f.name}", row) for k, f in enumerate(facts, 1) for row in f.cost.latency if row.get("runtime")
    ]
    times = {(name, str(row["runtime"]), batch_of(row)): row for name, row in measured}
    batches = sorted({batch for _, _, batch in times})
    cells = tuple(
        (name, runtime, *(milliseconds_spread(times.get((name, runtime, b), {})) for b in batches))
        for name, runtime in dict.fromkeys((name, runtime) for name, runtime, _ in times)
    )
    columns = ("run", "runtime", *(f"batch {b}" for b in batches))
    if len(facts) == 1:
        columns, cells = columns[1:], tuple(row[1:] for row in cells)
    text = (0,) if len(facts) == 1 else (0, 1)
    step = step_name(facts)
    windows = sorted({int(number(row["window"])) for _, row in measured if row.get("window")})
    step += f" of {windows[0]} in one call" if windows else ""
    return Table(columns, cells, text, title=f"Latency per {step}, measured") if cells else None


def settings_table(tree: Mapping[str, Json], title: str = "") -> Table | None:
    """Nested settings as rows of dotted keys."""
    rows = tuple((key, plain(value)) for key, value in flatten(dict(tree)).items() if plain(value) != MISSING)
    return Table(("setting", "value"), rows, text=(0, 1), title=title) if rows else None


def differences(runs: Sequence[RunRecord]) -> Table | None:
    """The settings in which the recipes of several runs differ; names and sentences about them aside."""
    flat = [flatten(dict(run.recipe)) for run in runs]
    keys = [key for key in dict.fromkeys(k for f in flat for k in f) if key.split(".")[0] not in NOT_SETTINGS]
    rows = tuple(
        (key, *(plain(f.get(key)) for f in flat))
        for key in keys
        if len({plain(f.get(key)) for f in flat}) > 1
    )
    columns = ("setting", *(f"{k} {run.name}" for k, run in enumerate(runs, 1)))
    return Table(columns, rows, text=tuple(range(len(columns)))) if rows else None


NOT_SETTINGS = ("name", "base", "about", "source", "command", "published", "obtained", "overrides")


def _run_row(facts: Facts) -> tuple[str, ...]:
    progress, cost = facts.progress, facts.cost
    of = f" of {progress.planned}" if progress.planned and not progress.finished else ""
    return (
        facts.name,
        facts.method,
        fraction(facts.size.density),
        whole(facts.size.active),
        size(cost.packed_bytes),
        quality(facts.quality.valid, facts.quality.metric),
        quality(facts.quality.test, facts.quality.metric),
        f"{milliseconds_spread(cost.fastest)} {cost.fastest.get('runtime', '')}".strip(),
        cost.products,
        duration(cost.seconds),
        f"{progress.epochs}{of}",
    )


def _difference(theirs: object, ours: object, metric: str) -> str:
    gap = row_of(metric).scale * (number(ours) - number(theirs))
    return MISSING if math.isnan(gap) else f"{gap:+.2f}".replace("-", "−")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
