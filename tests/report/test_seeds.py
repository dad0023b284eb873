"""What tables over seeds may put into one row, and what they say of runs that diverged."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from report_runs import write_run

from sparsernn.core.errors import InputError
from sparsernn.report.charts.result_chart import curve_chart, size_chart
from sparsernn.report.story.facts import gather
from sparsernn.report.story.history import load_run
from sparsernn.report.story.obtained import obtained
from sparsernn.report.story.result_tables import result_tables
from sparsernn.report.story.seeds import seeds_tables


def run(folder, seed, *, method="dense", data="ab", metric="perplexity", test=80.0, valid=None):
    """A written run with another seed, data, metric, test figure, and validation figures where they are given."""
    write_run(folder, method, epochs=4)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["task"]["metric"] = metric
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"seed": seed, "name": method}))
    told = json.loads((folder / "environment.json").read_text())
    told["data"] = {"name": "folder", "sha256": {"train": data * 32}}
    (folder / "environment.json").write_text(json.dumps(told))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "test":
            line[metric] = test
        if line["event"] == "epoch":
            line["valid"][metric] = line["valid"]["perplexity"] if valid is None else valid
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(folder)


def columns(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_runs_on_other_data_share_no_row(tmp_path):
    runs = [run(tmp_path / str(k), k, data="ab" if k < 3 else "cd", test=80.0 + k) for k in (1, 2, 3, 4)]
    tables = seeds_tables(runs)
    assert [t.title for t in tables] == [
        "Mean and spread over seeds: folder (sha256 abababab)",
        "Mean and spread over seeds: folder (sha256 cdcdcdcd)",
    ]
    assert [columns(t)[0]["test perplexity"] for t in tables] == ["81.50 ± 0.71", "83.50 ± 0.71"]
    assert seeds_tables([runs[0], runs[2]]) == []


def test_figures_of_other_metrics_share_no_table(tmp_path):
    runs = [run(tmp_path / str(k), k) for k in (1, 2)]
    runs += [run(tmp_path / str(k), k, metric="accuracy", test=0.5, valid=0.25) for k in (3, 4)]
    first, second = seeds_tables(runs)
    assert "valid perplexity" in first.columns
    assert columns(second)[0]["valid accuracy"] == "25.00 % ± 0.00"


def test_a_copy_of_a_run_is_no_second_seed(tmp_path):
    same = [run(tmp_path / name, 1, test=80.0) for name in "ab"]
    assert seeds_tables(same) == []
    (table,) = seeds_tables([*same, run(tmp_path / "c", 2, test=82.0)])
    assert columns(table)[0]["seeds"] == "2"
    assert columns(table)[0]["test perplexity"] == "81.00 ± 1.41"


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_row_with_a_diverged_run_says_so_and_comes_last(tmp_path, odd):
    runs = [run(tmp_path / f"d{k}", k, test=odd if k == 1 else 80.0) for k in (1, 2)]
    runs += [run(tmp_path / f"s{k}", k, method="selfish", test=85.0) for k in (1, 2)]
    for table in (*seeds_tables(runs), *result_tables([obtained(one) for one in runs])):
        last = next(row for row in columns(table) if row["test perplexity"] in ("∞", "NaN"))
        assert "85.00 ± 0.00" in [row["test perplexity"] for row in columns(table)]
        assert "±" in last["valid perplexity"]
    kept = [obtained(one) for one in runs]
    worse = [r if r.recipe == "selfish" else replaced(r, odd) for r in kept]
    (table,) = result_tables(worse)
    assert [row["beside the best"] for row in columns(table)] == ["best", "diverged"]
    drawn = curve_chart(worse)
    assert drawn is not None
    assert "nan" not in drawn.body.lower()
    assert size_chart(worse) is not None


def replaced(result, odd):
    return replace(result, valid=odd, curve=(odd, *result.curve[1:]))


def test_a_run_whose_recipe_is_lost_is_no_dense_one(tmp_path):
    run(tmp_path / "a", 1, method="selfish")
    (tmp_path / "a" / "recipe.yaml").unlink()
    record = load_run(tmp_path / "a")
    assert gather(record).method == "–"
    with pytest.raises(InputError, match=r"has no recipe\.yaml"):
        obtained(record)
    with pytest.raises(InputError, match="has a seed of 'x' in its recipe"):
        obtained(run(tmp_path / "b", "x"))
