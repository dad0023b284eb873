"""Reading run folders that were killed, resumed and torn; the figures taken from them."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_run

from sparsernn.report import gather, load_run
from sparsernn.report.story.history import read_events


def lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    good = {"event": "step", "step": 1}
    path = lines(
        tmp_path / "m",
        good,
        '{"event": "st',
        '{"event": "st{"event": "x"}',
        "[1]",
        '{"no": 1}',
        '{"event": 3}',
    )
    assert read_events(path) == (good,)
    assert read_events(tmp_path / "nothing") == ()


def test_a_run_that_stopped_early_is_finished_once_it_is_tested(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=10, done=4)
    assert not gather(load_run(folder)).progress.finished
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "test", "split": "test", "perplexity": 70.0}) + "\n")
    progress = gather(load_run(folder)).progress
    assert (progress.finished, progress.epochs, progress.planned) == (True, 4, 10)


def test_key_figures(tmp_path: Path) -> None:
    facts = gather(load_run(write_run(tmp_path / "run", epochs=10)))
    assert (facts.name, facts.method, facts.progress.finished) == ("run", "selfish", True)
    assert facts.quality.valid_epoch == 10
    assert facts.quality.test == pytest.approx(70.2)
    assert facts.quality.published_test == 71.65
    assert facts.size.density == pytest.approx(0.33, abs=1e-3)
    assert facts.cost.seconds == pytest.approx(315)
    assert facts.cost.seconds_per_epoch == pytest.approx(31.5)
    assert facts.cost.fastest == {"runtime": "csr fp32", "batch": 1, "ms_per_token": 0.82}


def test_active_parameters_follow_the_last_mask_update(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=4)
    before = gather(load_run(folder)).size
    update = load_run(folder).last("rewire")
    for row in update["tensors"].values():
        row["active"] -= 10
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**update, "update": 99, "step": 10**6}) + "\n")
    after = gather(load_run(folder)).size
    assert before.active is not None
    assert after.active == before.active - 60


def test_bits_are_the_figure_where_the_recipe_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=4)
    text = (folder / "recipe.yaml").read_text().replace("window: 35", "window: 35\n  metric: bits")
    (folder / "recipe.yaml").write_text(text)
    quality = gather(load_run(folder)).quality
    assert quality.metric == "bits"
    assert quality.valid is not None
    assert 6 < quality.valid < 7
