"""What a report says, in order, before anybody draws it: sections made of cards, charts, tables and text."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.charts import (
    checkpoint_charts,
    comparison_charts,
    confusion_chart,
    recurrence_charts,
    run_charts,
    synthetic_charts,
    unit_charts,
)
from sparsernn.report.story import scores, seeds, tables
from sparsernn.report.story.checkpoint_tensors import read_tensors
from sparsernn.report.story.document import Card, Document, Section, Text
from sparsernn.report.story.facts import Facts, gather, step_name
from sparsernn.report.story.formats import (
    MISSING,
    duration,
    fraction,
    milliseconds,
    origin,
    quality,
    ratio,
    short,
    size,
    whole,
)
from sparsernn.report.story.history import RunRecord
from sparsernn.report.story.tables import Table

SAMPLES = (
    "Written by the model. examples/web of the source archive is a page in which it writes in a browser."
)


def run_document(run: RunRecord) -> Document:
    """Everything that one run folder tells. Sections without data are left out."""
    facts = gather(run)
    sections = (
        _training(run),
        Section("Scores", figures=confusion_chart.confusion_pictures(run), tables=scores.scores_tables(run)),
        Section("Recurrence", recurrence_charts.NOTE, tuple(recurrence_charts.recurrence_pictures(run))),
        Section("Synthetic gradients", synthetic_charts.NOTE, tuple(synthetic_charts.synthetic_charts(run))),
        _sparsity(run),
        Section(
            "Units", unit_charts.NOTE, unit_charts.structure_pictures(run), unit_charts.structure_tables(run)
        ),
        Section("Gates", GATES, tuple(run_charts.gate_charts(run))),
        *_weights(run),
        _sizes(run, facts),
        _published(run, facts),
        _samples(run),
        _recipe(run),
        _environment(run),
        Section("Reproduce", texts=(Text("code", _commands(run)),)),
    )
    status = _status(run, facts)
    return Document("run", run.name, facts.about, status, _cards(run, facts), _filled(sections))


def comparison_document(runs: Sequence[RunRecord], home: Path = Path()) -> Document:
    """Several runs side by side, in the order given; the page in `home` links to the runs' own pages."""
    facts = [gather(run) for run in runs]
    differences = tables.differences(runs)
    curves, latency = comparison_charts.curves(runs), tables.latency_table(facts)
    sections = (
        Section("Results", tables=(_numbered(tables.comparison(facts)),)),
        Section("Over seeds", seeds.NOTE, tables=tuple(seeds.seeds_tables(runs))),
        Section("Curves", figures=(curves,) if curves else ()),
        Section("Quality and cost", figures=tuple(comparison_charts.cost_charts(runs, facts))),
        Section("Sparsity", figures=tuple(comparison_charts.sparsity_charts(runs))),
        Section("Gates", figures=tuple(comparison_charts.gate_comparison(runs))),
        Section(
            "Latency",
            "Per token or time step, measured on the machine of each run.",
            tables=(latency,) if latency else (),
        ),
        Section("Different settings", tables=(differences,) if differences else ()),
        Section("Reproduce", texts=_reproduced(runs)),
    )
    about = "Runs side by side. A run keeps its number and colour on the whole page."
    title = f"{len(runs)} runs compared"
    return Document("comparison", title, about, (), (), _filled(sections), _links(runs, home))


def _reproduced(runs: Sequence[RunRecord]) -> tuple[Text, ...]:
    named = zip(comparison_charts.run_labels(runs), runs, strict=True)
    return tuple(Text("code", _commands(run), name) for name, run in named)


def _links(runs: Sequence[RunRecord], home: Path) -> tuple[tuple[str, str], ...]:
    """(label, relative address) of every run's report.html that is there."""
    pages = [run.folder / "report.html" for run in runs]
    named = zip(comparison_charts.run_labels(runs), pages, strict=True)
    return tuple(
        (name, quote(os.path.relpath(page, home).replace(os.sep, "/")))
        for name, page in named
        if page.is_file()
    )


def _filled(sections: Sequence[Section]) -> tuple[Section, ...]:
    return tuple(section for section in sections if not section.empty)


def _status(run: RunRecord, facts: Facts) -> tuple[str, ...]:
    progress, resumed = facts.progress, len(run.of("resume"))
    of = f" of {progress.planned}" if progress.planned else ""
    state = "finished" if progress.finished else "unfinished"
    switch, end = run.last("switch").get("epoch"), run.last("end").get("why")
    lines = (
        f"{state}: {progress.epochs}{of} epochs",
        f"ended there, for {end}" if end else "",
        f"{whole(progress.steps)} steps" if progress.steps else "",
        f"averaging from epoch {switch}" if switch is not None else "",
        f"resumed {resumed} time{'s' if resumed > 1 else ''}" if resumed else "",
        str(run.environment.get("started") or ""),
    )
    return tuple(line for line in lines if line)


def _cards(run: RunRecord, facts: Facts) -> tuple[Card, ...]:
    judged, sizes, cost = facts.quality, facts.size, facts.cost
    weights = "averaged weights" if judged.averaged else ""
    best = origin(judged.valid_epoch)
    gained = (cost.packed_bytes or 0) < 0.99 * (cost.dense_bytes or 0)
    smaller = f"{ratio(cost.packed_bytes, cost.dense_bytes)} smaller than dense" if gained else ""
    per_epoch = f"{duration(cost.seconds_per_epoch)} per epoch" if cost.seconds_per_epoch else ""
    fastest = cost.fastest
    found = (
        _score("Valid", judged.metric, judged.valid, best, judged.published_valid),
        _score("Test", judged.metric, judged.test, weights, judged.published_test),
        Card("Active parameters", short(sizes.active), f"of {short(sizes.total)}" if sizes.total else ""),
        Card(
            "Density",
            fraction(sizes.density),
            f"{facts.method}, masked tensors" if sizes.masked_total else "dense",
        ),
        _units(run),
        Card(
            "Packed model",
            size(cost.packed_bytes),
            smaller,
        ),
        Card(
            f"Latency per {step_name([facts])}", milliseconds(fastest.get("ms_per_token")), _runtime(fastest)
        ),
        Card("Training time", duration(cost.seconds), per_epoch),
    )
    return tuple(card for card in found if card.value != MISSING)


def _units(run: RunRecord) -> Card:
    """Of up to two layers each count, of more their sum."""
    left, before = unit_charts.living_units(run)
    values = (left, before) if len(left) < 3 else ([sum(left)], [sum(before)])
    now, of = (" + ".join(whole(n) for n in counts) for counts in values)
    return Card("Living units", now or MISSING, f"of {of}")


def _score(split: str, metric: str, value: float | None, note: str, published: float | None) -> Card:
    told = f"published {quality(published, metric)}" if published is not None else ""
    relation = " · ".join(part for part in (note, told) if part)
    return Card(f"{split} {row_of(metric).label}", quality(value, metric), relation)


def _runtime(row: Mapping[str, Json]) -> str:
    return f"{row['runtime']}, batch {row.get('batch', 1)}" if row.get("runtime") else ""


def _training(run: RunRecord) -> Section:
    table = tables.epochs_table(run)
    return Section(
        "Training", figures=tuple(run_charts.training_charts(run)), tables=(table,) if table else ()
    )


def _sparsity(run: RunRecord) -> Section:
    charts = (*run_charts.density_charts(run), *run_charts.rewiring_charts(run))
    found = [tables.tensors_table(run), tables.rewire_table(run)]
    note = "Density: the active fraction of a tensor. Explored: positions that were active at least once."
    return Section("Sparsity", note if charts else "", charts, tuple(t for t in found if t))


def _weights(run: RunRecord) -> tuple[Section, Section]:
    tensors = read_tensors(run.folder)
    return (
        Section("Masks", MASKS, tuple(checkpoint_charts.mask_pictures(run, tensors))),
        Section("Weights", WEIGHTS, tuple(checkpoint_charts.weight_histograms(run, tensors))),
    )


GATES = "Density of each gate of each stacked tensor; the gates share their tensor's budget."
MASKS = "Each picture is one masked tensor: outputs run to the right, gate after gate, inputs run down."
WEIGHTS = "How the values of the active weights are distributed; the outermost 0.2 % lie outside the drawing."


def _sizes(run: RunRecord, facts: Facts) -> Section:
    found = [tables.sizes_table(run), tables.latency_table([facts])]
    return Section("Size and speed", tables=tuple(table for table in found if table))


def _published(run: RunRecord, facts: Facts) -> Section:
    table = tables.published(facts)
    published = run.recipe.get("published")
    note = str(published.get("note") or "") if isinstance(published, Mapping) else ""
    source = str(run.recipe.get("source") or "")
    return Section(
        "Published and obtained", " · ".join(x for x in (source, note) if x), tables=(table,) if table else ()
    )


def _samples(run: RunRecord) -> Section:
    texts = [
        Text("sample", str(e.get("text", "")), _prompt(e)) for e in run.of("sample")[-3:] if e.get("text")
    ]
    return Section("Sample text", SAMPLES, texts=tuple(texts))


def _prompt(event: Mapping[str, Json]) -> str:
    return f"after “{event['prompt']}”" if event.get("prompt") else ""


def _recipe(run: RunRecord) -> Section:
    told = run.recipe_text.strip()
    return Section("Recipe", "recipe.yaml of the run, complete.", texts=(Text("code", told),) if told else ())


def _environment(run: RunRecord) -> Section:
    shown = {key: value for key, value in run.environment.items() if key != "command"}
    table = tables.settings_table(shown)
    return Section("Environment", tables=(table,) if table else ())


def _commands(run: RunRecord) -> str:
    command = run.environment.get("command")
    given = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
    folder = shlex.quote(run.folder.name or "RUN")
    lines: list[tuple[str, str]] = [
        (given, "the command of this run"),
        (f"sparsernn train {folder}/recipe.yaml", "the same settings once more"),
        (f"sparsernn evaluate {folder} --split test", "its test figures"),
        (f"sparsernn report {folder}", "this page"),
        (str(run.recipe.get("command") or ""), "the original's own command"),
    ]
    return "\n".join(f"# {why}\n{line}" for line, why in lines if line)


def _numbered(table: Table) -> Table:
    rows = tuple((f"{k} {row[0]}", *row[1:]) for k, row in enumerate(table.rows, 1))
    keys = tuple(f"s{k % 8}" for k in range(len(rows)))
    return Table(table.columns, rows, table.text, table.title, keys)
