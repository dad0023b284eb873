"""Figures over seeds: kept, printed into pages, written into recipes."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from report_runs import write_run
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.report.charts.result_chart import curve_chart, size_chart
from sparsernn.report.story import recipe_figures
from sparsernn.report.story.history import load_run
from sparsernn.report.story.obtained import find_runs, merged, obtained, read_book, settings_hash, write_book
from sparsernn.report.story.recipe_figures import write_figures
from sparsernn.report.story.result_tables import fitting, renewed, result_tables
from sparsernn.runs.recipe import list_recipes, load_recipe

BOOK = Path(__file__).parents[2] / "docs" / "results.jsonl"
PAGE = "# Title\n\n<!-- results: demo/* -->\n<!-- end -->\n\nThe end.\n"


def answer(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")
    assert result.exit_code == code, result.output
    return result.output


def edited(folder, *, test=None, environment=(), **settings):
    """Change a written run's recipe, its last test figure and what it says of the machine."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | settings))
    told = json.loads((folder / "environment.json").read_text()) | dict(environment)
    (folder / "environment.json").write_text(json.dumps(told))
    if test is not None:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        scores = {"perplexity": test, "loss": math.log(test)}
        lines = [line | scores if line["event"] == "test" else line for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two settings with seeds 1 to 3, and one run that was stopped."""
    home = tmp_path / "runs"
    for method in ("dense", "selfish"):
        for seed in (1, 2, 3):
            folder = write_run(home / f"{method}-{seed}", method, epochs=4)
            told = {"commit": "0123456789ab"}
            edited(folder, test=80 + seed, environment=told, name=f"demo/{method}", seed=seed)
    write_run(home / "stopped", done=2)
    return home


def of(folder):
    return [result for result in map(obtained, find_runs([folder])) if result is not None]


def test_a_row_holds_mean_and_spread_of_its_seeds(runs):
    (table,) = result_tables(of(runs))
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == ["`demo/selfish`", "`demo/dense`"]
    assert rows["`demo/dense`"]["seeds"] == "3: 1-3"
    assert rows["`demo/dense`"]["test perplexity"] == "82.00 ± 1.00"
    assert rows["`demo/selfish`"]["beside the best"] == "best"
    assert rows["`demo/dense`"]["beside the best"] == "worse"
    assert rows["`demo/dense`"]["commit"] == "0123456"
    assert "929,589 training tokens" in table.title
    assert "an example processor, torch 2.13.0, Python 3.11.7" in table.title


def test_other_settings_data_and_machines_are_other_rows(runs):
    edited(runs / "dense-2", clip=0.5, overrides=["clip=0.5", "seed=2", "threads=1"])
    labels = [row[0] for row in result_tables(of(runs))[0].rows]
    assert labels == ["`demo/selfish`", "`demo/dense`", "`demo/dense clip=0.5`"]
    edited(runs / "dense-3", environment={"processor": "another"})
    data = {"name": "ptb", "sha256": {"train": "ef" * 32}, "tokens": {"train": 10}}
    edited(runs / "dense-1", environment={"data": data})
    assert [len(table.rows) for table in result_tables(of(runs))] == [2, 1, 1]


def test_what_all_rows_changed_stands_once_in_the_title(runs):
    for method in ("dense", "selfish"):
        for seed in (1, 2, 3):
            own = ["epochs=9"] if method == "dense" else []
            edited(runs / f"{method}-{seed}", overrides=["clip=0.5", "data=my words", *own, f"seed={seed}"])
    (table,) = result_tables(of(runs))
    assert [row[0] for row in table.rows] == ["`demo/selfish`", "`demo/dense epochs=9`"]
    assert "`sparsernn train RECIPE [CHANGES] clip=0.5 'data=my words' seed=N [--data DIR]`" in table.title
    (alone,) = result_tables(fitting(of(runs), ["demo/dense"]))
    assert alone.rows[0][0] == "`demo/dense clip=0.5 'data=my words' epochs=9`"


def test_what_a_command_made_of_another_run_is_no_recipe_to_train(runs):
    edited(runs / "dense-1", name="demo/dense-pruned-finetuned2")
    labels = [row[0] for row in result_tables(of(runs))[0].rows]
    assert "`demo/dense-pruned-finetuned2`, made from another run" in labels
    assert "`demo/dense`" in labels


def test_the_best_is_the_highest_where_more_is_better(runs):
    for k, folder in enumerate(sorted(runs.glob("dense-*")), 1):
        lines = (folder / "metrics.jsonl").read_text().replace('"perplexity"', '"accuracy"')
        (folder / "metrics.jsonl").write_text(lines)
        edited(folder, task={"metric": "accuracy"}, name="demo/" + "ab"[k % 2])
    (table,) = (t for t in result_tables(of(runs)) if "test accuracy" in t.columns)
    assert table.rows[0][-2] == "best"


def test_a_label_can_be_given_to_a_shell(runs):
    one = replace(of(runs)[0], overrides=("epochs=6", "model.hidden_sizes=[16, 8]"))
    assert one.label == f"{one.recipe} epochs=6 'model.hidden_sizes=[16, 8]'"


def test_a_page_is_renewed_between_its_marks_alone(runs, tmp_path):
    page, book = tmp_path / "page.md", tmp_path / "book.jsonl"
    page.write_text(PAGE)
    told = answer("results", runs, "--keep", book, "--page", page)
    assert "Finished runs read: 6; not finished and left out: 1." in told
    assert "*" not in told
    assert "`" not in told
    once = page.read_text()
    assert once.startswith("# Title\n\n<!-- results: demo/* -->\n\n*language_modelling, 929,589 ")
    assert once.endswith("<!-- end -->\n\nThe end.\n")
    assert once.count("| `demo/") == 2
    assert renewed(once, read_book(book)) == once
    assert renewed(PAGE.replace("demo/*", "demo/dense other"), read_book(book)).count("| `demo/") == 1


def test_a_place_can_leave_out_runs_by_what_was_changed(runs):
    edited(runs / "dense-2", epochs=3, overrides=["epochs=3", "model.layer.product=sparse"])
    rows = [(result.recipe, result.overrides) for result in fitting(of(runs), ["demo/*"])]
    for pattern in ("!epochs", "!model.*"):
        assert [(r.recipe, r.overrides) for r in fitting(of(runs), ["demo/*", pattern])] == [
            (recipe, changes) for recipe, changes in rows if "epochs=3" not in changes
        ]
    assert fitting(of(runs), ["demo/*", "!epoch"]) == of(runs)
    for needed in (["+epochs"], ["+model.*", "+epochs"]):
        (changed,) = fitting(of(runs), ["demo/*", *needed])
        assert "epochs=3" in changed.overrides
    assert not fitting(of(runs), ["demo/*", "+epochs", "+clip"])
    assert not fitting(of(runs), ["demo/*", "+epochs", "!model.*"])


def test_what_is_kept_outlives_its_runs_and_is_replaced_by_newer_ones(runs, tmp_path):
    book = tmp_path / "book.jsonl"
    answer("results", runs, "--keep", book)
    shutil.rmtree(runs / "dense-1")
    edited(runs / "dense-2", test=90)
    assert "3: 1-3" in answer("results", runs, "--keep", book)
    assert sorted(r.test for r in read_book(book) if r.recipe == "demo/dense") == [81, 83, 90]
    before = book.read_bytes()
    write_book(book, reversed(read_book(book)))
    assert book.read_bytes() == before
    assert merged(read_book(book), read_book(book)) == read_book(book)


def test_figures_are_written_into_recipes_that_were_run_unchanged(runs, tmp_path, monkeypatch):
    copy = tmp_path / "copy.yaml"
    copy.write_text(
        "base: demo/dense\nabout: A.\nobtained:\n  test_perplexity: 7\n  note: old\n\n# why\nepochs: 4\n"
    )
    monkeypatch.setattr(recipe_figures, "recipe_file", lambda name: copy)
    settings = load_recipe("demo/dense").settings()
    for seed in (1, 2, 3):
        edited(runs / f"dense-{seed}", **{**settings, "seed": seed, "overrides": [f"seed={seed}"]})
    edited(runs / "selfish-1", **{**settings, "clip": 7.0})
    assert write_figures(of(runs)) == ["demo/dense"]
    written = load_recipe(copy)
    assert written.obtained["test_perplexity"] == 82.0
    assert written.obtained["note"].startswith("mean of 3 seeds (1-3), standard deviation 0.00 and 1.00; ")
    assert "929,589 training tokens" in written.obtained["note"]
    assert copy.read_text().startswith("base: demo/dense\nabout: A.\nobtained: {valid")
    assert copy.read_text().endswith('"}\n\n# why\nepochs: 4\n')


def test_a_picture_has_a_dot_for_each_setting_and_a_line_for_its_spread(runs, tmp_path):
    picture = tmp_path / "size.svg"
    answer("results", runs, "--figure", picture, "--only", "demo/*")
    drawn = picture.read_text()
    assert drawn.count("<title>2 demo/dense, n = 3: 82 at MB of a packed file, float32 0.2068</title>") == 1
    assert drawn.count("<title>1 demo/selfish, n = 3") == 1
    masked = replace(of(runs)[0], total=800_000, active=100_000)
    assert (masked.packed_bytes, replace(masked, active=None).packed_bytes) == (500_000, None)
    figure = size_chart(of(runs))
    assert figure.body.count('<path class="line') == 2
    assert len(figure.legend) == 2
    assert "is not drawn" in answer("results", runs, "--figure", picture, "--only", "demo/dense", code=2)


def test_curves_hold_the_mean_of_each_epoch_and_its_spread_best_first(runs, tmp_path):
    picture = tmp_path / "epochs.svg"
    answer("results", runs, "--curves", picture)
    kept = of(runs)
    best, means = kept[-1], [sum(epoch) / 3 for epoch in zip(*(r.curve for r in kept[-3:]), strict=True)]
    assert best.recipe == "demo/selfish"
    drawn = picture.read_text()
    for epoch, mean in enumerate(means, 1):
        assert f"<title>1 demo/selfish, n = 3: {mean:.5g} at epoch {epoch}</title>" in drawn
    assert "2 demo/dense, n = 3" in drawn
    assert curve_chart(kept).body.count('<path class="band') == 2
    shorter = [replace(result, curve=result.curve[: 3 if result.seed == 2 else 4]) for result in kept]
    assert "at epoch 4" not in curve_chart(shorter).body
    flat = [replace(result, curve=result.curve[:1]) for result in kept]
    assert curve_chart(flat) is None
    said = answer("results", runs, "--curves", tmp_path / "no" / "epochs.svg", code=2)
    assert "--curves is" in said


def test_a_run_that_stopped_has_obtained_nothing(runs):
    assert obtained(load_run(runs / "stopped")) is None


@pytest.mark.parametrize(
    ("text", "said"), [(None, "there is no page"), ("# nothing here\n", "has no place for results")]
)
def test_a_page_without_a_place_is_refused_before_anything_is_written(runs, tmp_path, text, said):
    page, book = tmp_path / "page.md", tmp_path / "book.jsonl"
    if text is not None:
        page.write_text(text)
    assert said in answer("results", runs, "--keep", book, "--page", page, code=2)
    assert not book.exists()


def test_no_run_and_no_result_are_one_sentence(tmp_path):
    assert "holds no run" in answer("results", tmp_path, code=2)
    (tmp_path / "book.jsonl").write_text('{"recipe": "a"}\n')
    with pytest.raises(InputError, match="line 1: this is no result"):
        read_book(tmp_path / "book.jsonl")


@pytest.mark.parametrize("family", ["alternate", "awd", "budget", "iss", "nnrnn", "selfish", "series"])
def test_a_run_folder_says_the_settings_of_its_recipe(family):
    for name in list_recipes():
        if name.startswith(f"{family}/"):
            recipe = load_recipe(name)
            assert settings_hash(yaml.safe_load(recipe.to_yaml())) == settings_hash(recipe.settings()), name


def test_the_commands_of_results_that_are_kept_still_say_their_settings():
    """Where a recipe was changed since, the old value has to stand among the changes."""
    for result in read_book(BOOK):
        now = load_recipe(result.recipe, result.overrides).settings()
        assert settings_hash(now) == result.settings, result.label
