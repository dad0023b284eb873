"""The pages: complete, self-contained, well formed, and never stopped by what a run did not record."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_runs import write_run

from sparsernn.core.errors import InputError
from sparsernn.report import compare, write_report
from sparsernn.report.story.facts import Cost, Facts, Progress, Quality, Size, products_in_words
from sparsernn.report.story.tables import comparison

ALL = ["Training", "Sparsity", "Gates", "Masks", "Weights", "Size and speed", "Published and obtained"]
ALL += ["Sample text", "Recipe", "Environment", "Reproduce"]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects headings and addresses, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def report(*folders: Path, out: Path) -> tuple[Outline, str, str]:
    html, markdown = write_report(list(folders), out)
    text = html.read_text()
    return Outline(text), text, markdown.read_text()


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = folder / "metrics.jsonl"
    events = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_finished_run_has_every_section_in_both_forms(finished: Path, tmp_path: Path) -> None:
    outline, html, markdown = report(finished, out=tmp_path / "out")
    assert outline.headings == ALL
    assert re.findall(r"^## (.*)$", markdown, re.MULTILINE) == ALL
    for figure in ("74.62", "70.20", "148 KiB", "0.820 ms", "averaging from epoch 18", "arXiv:2101.09048"):
        assert figure in html
        assert figure in markdown or "averaging" in figure


def test_the_page_needs_nothing_but_itself(finished: Path, tmp_path: Path) -> None:
    outline, html, _ = report(finished, out=tmp_path / "out")
    assert not {"script", "link", "iframe"} & outline.tags
    elsewhere = [link for link in outline.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert elsewhere == []
    assert "url(" not in html
    assert "@import" not in html


def test_pictures_and_tables_can_be_read_aloud(finished: Path, tmp_path: Path) -> None:
    _, html, _ = report(finished, out=tmp_path / "out")
    plots = re.findall(r'<svg class="plot"[^>]*>', html)
    assert len(plots) > 15
    assert all('role="img"' in plot and re.search(r'aria-label="[^"]{20,}"', plot) for plot in plots)
    assert html.count("<table>") == html.count("<thead>")
    assert 'scope="row"' in html


def test_names_and_text_are_escaped_everywhere(finished: Path, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text()) | {"name": evil, "about": evil}
    (finished / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def poison(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event in events:
            for tensors in [event["tensors"]] if "tensors" in event else []:
                tensors[evil] = {**next(iter(tensors.values())), "gates": {evil: 0.3}}
        return [*events, {"event": "sample", "text": evil, "prompt": evil}]

    rewrite(finished, poison)
    outline, html, _ = report(finished, out=tmp_path / "one")
    report(finished, finished, out=tmp_path / "two")
    assert "script" not in outline.tags
    assert html.count("&lt;script&gt;") > 5
    for path in tmp_path.glob("*/report_figures/*.svg"):
        ElementTree.parse(path)


@pytest.mark.parametrize("method", ["dense", "static", "selfish", "rigl"])
@pytest.mark.parametrize("done", [0, 1, 2, 12])
def test_every_method_at_every_age(tmp_path: Path, method: str, done: int) -> None:
    folder = write_run(tmp_path / "run", method, epochs=12, done=done)
    outline, html, _ = report(folder, out=folder)
    assert ("Gates" in outline.headings) == (method in ("selfish", "rigl") and done > 1)
    assert ("Masks" in outline.headings) == (method != "dense")
    assert ("unfinished" in html) == (done < 12)


@pytest.mark.parametrize("kind", ["start", "step", "epoch", "rewire", "test", "sizes", "sample", "switch"])
def test_a_missing_kind_of_event_only_leaves_its_section_out(finished: Path, kind: str) -> None:
    rewrite(finished, lambda events: [e for e in events if e["event"] != kind])
    outline, _, _ = report(finished, out=finished)
    assert len(outline.headings) >= len(ALL) - 2


@pytest.mark.parametrize(
    "event",
    [{"event": "epoch"}, {"event": "rewire"}, {"event": "sizes"}, {"event": "test"}, {"event": "start"}],
)
def test_bare_events_do_no_harm(finished: Path, event: dict[str, Any]) -> None:
    rewrite(finished, lambda events: [*events, event])
    report(finished, out=finished)
    report(finished, finished, out=finished)


def test_nan_and_infinite_figures_are_told_and_not_drawn(finished: Path) -> None:
    def spoil(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event in events:
            if event["event"] == "epoch" and event["epoch"] > 20:
                event["valid"] = dict.fromkeys(event["valid"], float("nan"))
            if event["event"] == "step" and event["epoch"] > 20:
                event["loss"], event["grad_norm"] = float("nan"), float("inf")
            if event["event"] == "test":
                event["perplexity"] = float("nan")
        return events

    rewrite(finished, spoil)
    _, html, markdown = report(finished, out=finished)
    assert "NaN" in markdown
    for drawn in re.findall(r'(?: d|cx|cy|x1|y1|x|y)="([^"]*)"', html):
        assert "nan" not in drawn.lower()
        assert "inf" not in drawn.lower()


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_without_a_whole_checkpoint_pictures_are_left_out(finished: Path, damage: str) -> None:
    path = finished / "last.safetensors"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "torn" else b"hello")
    outline, _, _ = report(finished, out=finished)
    assert outline.headings == [h for h in ALL if h not in ("Masks", "Weights")]


def test_only_a_recipe_or_only_metrics_is_enough(finished: Path, tmp_path: Path) -> None:
    for name in ("recipe.yaml", "metrics.jsonl"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_bytes((finished / name).read_bytes())
        outline, _, _ = report(folder, out=folder)
        assert "Reproduce" in outline.headings


def test_markdown_tables_are_rectangular_and_its_pictures_exist(finished: Path, tmp_path: Path) -> None:
    _, _, markdown = report(finished, out=tmp_path / "deep" / "name.html")
    for table in re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    pictures = re.findall(r"\]\(([^)]*\.svg)\)", markdown)
    assert len(pictures) > 15
    for picture in pictures:
        root = ElementTree.parse(tmp_path / "deep" / picture).getroot()
        assert root.get("role") == "img"


def test_a_report_is_replaced_together_with_its_pictures(finished: Path, tmp_path: Path) -> None:
    report(finished, out=tmp_path / "out")
    before = len(list((tmp_path / "out" / "report_figures").iterdir()))
    rewrite(finished, lambda events: [e for e in events if e["event"] != "rewire"])
    report(finished, out=tmp_path / "out")
    assert len(list((tmp_path / "out" / "report_figures").iterdir())) < before


def test_a_comparison_shows_every_run(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / m, m, epochs=12, done=5 if m == "rigl" else None) for m in METHODS]
    outline, html, _ = report(*folders, out=tmp_path / "out")
    sections = [
        "Results",
        "Curves",
        "Quality and cost",
        "Sparsity",
        "Gates",
        "Latency",
        "Different settings",
        "Reproduce",
    ]
    assert outline.headings == sections
    assert all(f"{k} {name}" in html for k, name in enumerate(METHODS, 1))
    assert "sparsity.density" in html
    differences, commands = html.split("<h2>Different settings")[-1].split("<h2>Reproduce")
    assert "clip" not in differences
    assert all(f"{k} {name}" in part for k, name in enumerate(METHODS, 1) for part in (differences, commands))


def test_a_comparison_of_one_run_with_itself_keeps_two_rows(finished: Path, tmp_path: Path) -> None:
    _, html, _ = report(finished, finished, out=tmp_path)
    assert "1 selfish-small" in html
    assert "2 selfish-small" in html


def test_a_comparison_links_to_the_pages_of_its_runs(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "some runs" / m, m, epochs=3) for m in ("dense", "selfish")]
    report(folders[1], out=folders[1])
    outline, _, markdown = report(*folders, out=tmp_path / "out")
    links = [link for link in outline.links if not link.startswith("#")]
    assert links == ["../some%20runs/selfish/report.html"]
    assert f"[2 selfish]({links[0]})" in markdown


def test_exact_densities_do_not_look_like_change(finished: Path) -> None:
    def keep(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event in events:
            for k, row in enumerate((event.get("tensors") or {}).values()):
                row["density"] = 0.33 + 1e-6 * k
        return events

    rewrite(finished, keep)
    _, html, _ = report(finished, out=finished)
    assert ">0.3300" not in html.split('id="sparsity"')[1].split("</svg>")[0]


def test_more_runs_than_colours(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run{k}", "selfish", epochs=3) for k in range(10)]
    _, html, _ = report(*folders, out=tmp_path / "out")
    assert "10 run9" in html
    assert "s8" not in html


def test_compare_gives_the_figures_as_a_table(tmp_path: Path) -> None:
    table = compare([write_run(tmp_path / m, m, epochs=12) for m in ("dense", "selfish")])
    assert table.columns[:4] == ("run", "method", "density", "active weights")
    assert [row[1] for row in table.rows] == ["dense", "selfish"]
    assert [row[2] for row in table.rows] == ["1.000", "0.330"]
    assert table.rows[1][table.columns.index("test perplexity")] == "70.20"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], ""),
        ([("head", None, None)], ""),
        ([("layers.0", True, (0.2, 0.1)), ("head", True, None)], "sparse"),
        (
            [("layers.0", False, (0.1, 0.2)), ("head", False, (0.1, 0.095))],
            "dense is faster",
        ),
        ([("layers.0", False, (0.1, 0.2)), ("head", True, (0.2, 0.1))], "sparse in head"),
    ],
)
def test_the_table_says_how_masked_weights_were_multiplied(rows: list[Any], said: str) -> None:
    plan = {"products": [dict(zip(("module", "sparse", "seconds"), row, strict=True)) for row in rows]}
    assert products_in_words(plan) == said
    cost = Cost(products=products_in_words(plan))
    table = comparison([Facts("a", "", "static", Quality("perplexity"), Size(), cost, Progress())])
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells.get("products", "") == said


def test_bad_folders_are_told_in_one_sentence(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folders in ([], [tmp_path / "nowhere"], [tmp_path / "empty"], [finished, tmp_path / "empty"]):
        with pytest.raises(InputError):
            write_report(folders, tmp_path / "out")
    (finished / "recipe.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not readable YAML"):
        write_report([finished], tmp_path / "out")


def test_a_place_that_cannot_be_written_is_told(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_report([finished], tmp_path / "file" / "out")


METHODS = ("dense", "static", "selfish", "rigl")
