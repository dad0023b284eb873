"""The heat map of right and given labels, from the record of a run."""

import json
import xml.etree.ElementTree as ElementTree

from report_runs import write_run

from sparsernn.report import write_report
from sparsernn.report.charts.confusion_chart import confusion_pictures
from sparsernn.report.charts.svg import standalone
from sparsernn.report.story.history import load_run

RECORD = {
    "event": "confusion",
    "split": "test",
    "tags": ["NOUN", "<V&B>", "other"],
    "counts": [[90, 10, 0], [0, 0, 0], [1, 0, 299]],
    "together": 4,
}


def run_with(folder, *records):
    write_run(folder, "dense", epochs=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return folder


def drawn(folder):
    """The picture as the tree of a file of its own."""
    (figure,) = confusion_pictures(load_run(folder))
    return figure, ElementTree.fromstring(standalone(figure))


def test_the_newest_confusion_is_drawn_by_rows(tmp_path):
    old = {**RECORD, "tags": ["OLD"], "counts": [[1]]}
    figure, tree = drawn(run_with(tmp_path / "run", old, RECORD))
    told = [title.text for title in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert told == [
        "NOUN labelled NOUN: 90.0%",
        "NOUN labelled <V&B>: 10.0%",
        "other labelled NOUN: 0.3%",
        "other labelled other: 99.7%",
    ]
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in ("90", "10", "0", "100")] == ["90", "10", "100", "0", "100"]
    assert texts.count("<V&B>") == 2
    assert "Other: the 4 labels" in figure.caption
    assert figure.unit == "400 words"


def test_right_and_wrong_cells_have_colours_of_their_own(tmp_path):
    _, tree = drawn(run_with(tmp_path / "run", RECORD))
    cells = [
        (cell.get("class"), float(cell.get("fill-opacity")))
        for cell in tree.iter("{http://www.w3.org/2000/svg}rect")
        if cell.get("fill-opacity")
    ]
    assert [look for look, _ in cells] == ["cell s0", "cell s1", "cell s1", "cell s7"]
    assert cells[0][1] > cells[1][1] > cells[2][1] > 0.02


def test_it_stands_in_the_report_of_runs_that_have_one(tmp_path):
    html, markdown = write_report([run_with(tmp_path / "run", RECORD)], tmp_path / "run")
    assert "<h3>Right and given labels, test</h3>" in html.read_text()
    assert "scores-1.svg" in markdown.read_text()
    html, _ = write_report([run_with(tmp_path / "other")], tmp_path / "other")
    assert "given labels" not in html.read_text()
