"""Gates of any number and size, and exploration: over time, side by side, and in the pictures of masks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_run

from sparsernn.report import load_run
from sparsernn.report.charts.checkpoint_charts import gate_shares, mask_pictures
from sparsernn.report.charts.comparison_charts import gate_comparison, sparsity_charts
from sparsernn.report.charts.run_charts import exploration, gate_charts, gate_means
from sparsernn.report.story.checkpoint_tensors import read_tensors

MASTERS = {"master_in": [0, 4], "master_forget": [4, 8], "out": [8, 44], "cell": [44, 160]}
ROWS = {"h": [0, 80], "t": [80, 160]}


def run_with(folder: Path, gate_rows: dict[str, list[int]], density: float = 0.4) -> Path:
    """A run of an architecture with these gates: each becomes denser by 0.01 times its position per update."""
    write_run(folder, "selfish", epochs=4)
    path = folder / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "start":
            for row in event["plan"]["tensors"]:
                if row["gates"]:
                    row["gates"], row["gate_rows"] = list(gate_rows), gate_rows
                    row["gate_density"] = dict.fromkeys(gate_rows, density)
        if event["event"] == "rewire":
            for name, row in event["tensors"].items():
                told = {g: density + 0.01 * k * event["epoch"] for k, g in enumerate(gate_rows)}
                row["gates"] = told if "weight_" in name else {}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def text(figures: list[Any]) -> str:
    return "".join(figure.body for figure in figures)


def scale_of(figure: Any) -> list[str]:
    """The labels of the values."""
    return re.findall(r'x="-8"[^>]*>([^<]+)<', figure.body)


def test_gates_of_any_number_are_followed_from_the_start_of_the_run(tmp_path: Path) -> None:
    for rows in (ROWS, MASTERS):
        run = load_run(run_with(tmp_path / str(len(rows)), rows))
        means = gate_means(run)
        assert list(means) == list(rows)
        x, last = means[list(rows)[-1]]
        assert x == [0, 1, 2, 3, 4]
        assert last == pytest.approx([0.4 + 0.01 * (len(rows) - 1) * k for k in range(5)])
        (first, *others) = gate_charts(run)
        assert all(f">{gate}</text>" in first.body for gate in rows)
        assert len(others) == 3


def test_means_over_tensors_weigh_them_by_their_size(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", ROWS)
    path = folder / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    rewires = [event for event in events if event["event"] == "rewire"]
    for event in rewires:
        weights = [row for row in event["tensors"].values() if row["gates"]]
        for k, row in enumerate(weights):
            row["numel"], row["gates"] = 100 * (k + 1), {"h": 0.1 * k, "t": 0.5}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    mean = (0.1 * 200 + 0.2 * 300 + 0.3 * 400) / 1000
    assert gate_means(load_run(folder))["h"][1][1:] == pytest.approx([mean] * 4)


def test_long_names_of_gates_have_room_at_the_right_and_at_the_left(tmp_path: Path) -> None:
    run = load_run(run_with(tmp_path / "on", MASTERS))
    assert all(figure.right > 6 * len("master_forget") for figure in gate_charts(run))
    *_, now = gate_comparison([run])
    assert now.left > 6 * len("master_forget")


def test_runs_stand_side_by_side_on_one_scale_and_every_tensor_has_one_heading(tmp_path: Path) -> None:
    runs = [
        load_run(run_with(tmp_path / "rhn", ROWS, 0.2)),
        load_run(run_with(tmp_path / "on", MASTERS, 0.6)),
        load_run(write_run(tmp_path / "dense", "dense", epochs=4)),
    ]
    first, second, now = gate_comparison(runs)
    assert [first.title, second.title] == ["1 rhn", "2 on"]
    assert scale_of(first) == scale_of(second)
    headings = re.findall(r'class="group"[^>]*>([^<]+)<', now.body)
    assert len(headings) == len(set(headings)) == 4
    after = now.body.split("layers.0.weight_ih</text>")[1].split('class="group"')[0]
    assert re.findall(r'class="row"[^>]*>([^<]+)<', after) == [*ROWS, *MASTERS]
    (explored,) = sparsity_charts(runs)
    assert [row[2] for row in explored.legend] == ["1 rhn", "2 on"]


def test_exploration_begins_with_the_density(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", "selfish", epochs=4))
    x, y = exploration(run)
    assert x == [0, 1, 2, 3, 4]
    assert y[0] == pytest.approx(0.33, abs=1e-3)
    assert y[1:] == [event["exploration"] for event in run.of("rewire")]
    assert not sparsity_charts([load_run(write_run(tmp_path / "dense", "dense", epochs=4))])


def test_borders_in_a_mask_picture_lie_where_the_rows_of_the_gates_end(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", MASTERS)
    run = load_run(folder)
    shares = gate_shares(run, "layers.0.weight_ih", 160)
    assert shares == {"master_in": (0, 0.025), "master_forget": (0.025, 0.05), "out": (0.05, 0.275)} | {
        "cell": (0.275, 1)
    }
    pictures = mask_pictures(run, read_tensors(folder))
    picture = next(figure for figure in pictures if figure.title == "layers.0.weight_ih")
    assert re.findall(r'class="border" x1="([\d.]+)%', picture.body) == ["2.50", "5.00", "27.50"]
    assert ">cell</text>" in picture.body
    assert "master_in" not in picture.body
    assert "master_in (0 to 2 %), master_forget (2 to 5 % of the width)" in picture.caption


def test_without_rows_in_the_plan_gates_are_drawn_equally_wide(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", "selfish", epochs=4))
    shares = gate_shares(run, "layers.0.weight_ih", 160)
    assert shares == {"i": (0, 0.25), "f": (0.25, 0.5), "g": (0.5, 0.75), "o": (0.75, 1)}
    assert gate_shares(run, "embedding.weight", 320) == {}
