"""Numeric series: what is read, what is scored, in which units, and what a run without its data predicts."""

import csv
import io
import math
import re
import shutil

import numpy as np
import pytest
import torch
from test_every_task import assert_batches, assert_facts, assert_loss, assert_scores, model_for, tiny
from torch import nn
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, stand_ins
from sparsernn.data.series_corpus import Reading, series_of
from sparsernn.data.table_files import read_table
from sparsernn.deploy import read_packed, runtime, unpack
from sparsernn.runs.assembly import open_run, open_weights
from sparsernn.tasks import NumericSeries


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")


def write(folder, name, rows, names="id,t,x,y,kind"):
    text = "\n".join([names, *(",".join(map(str, row)) for row in rows)])
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder / name


def rows_of(groups, steps=lambda group: 3 + group % 4, first=0):
    """Series of different lengths: x counts, y is twice x and a little, the kind says whether the id is odd."""
    for group in range(first, first + groups):
        for t in range(steps(group)):
            x = 10 * group + t
            yield f"g{group}", t, x, 2 * x + 0.5, ("even", "odd")[group % 2]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path, "rows.csv", rows_of(30))


def table(file, **settings):
    return CORPORA["table"](
        file, **{"target": "kind", "group": "id", "time": "t", "columns": ["x"], **settings}
    )


class Echo(nn.Module):
    """Says at each step what its first input is, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return type("Read", (), {"raw": x})

    def read_out(self, h):
        return h[..., :1] * self.factor


# --- the task


@pytest.mark.parametrize(
    "settings",
    [
        {"goal": "regress"},
        {"goal": "regress", "per": "series"},
        {"goal": "regress", "longest": 4},
        {"goal": "forecast", "horizon": 2},
    ],
    ids=str,
)
def test_every_goal_keeps_to_the_contract(settings):
    info = {"sha256": dict.fromkeys(("train", "valid", "test"), "0"), "horizon": 2, **settings}
    numbers = stand_ins.series(info)
    task = tiny("series", corpus=numbers, **settings)
    model = model_for(task)
    assert_facts(task)
    assert_batches(task)
    assert_loss(task, model)
    assert_scores(task, model)
    again = NumericSeries(**NumericSeries.stand_in(task.info, {}), **settings)
    assert (again.sizes, again.scaling) == (task.sizes, task.scaling)


def test_scaling_is_learned_on_training_alone_and_undone_in_scores(tmp_path):
    for split, shift in (("train", 0), ("valid", 1000), ("test", 5000)):
        write(tmp_path, f"{split}.csv", [("a", t, t + shift, 3 * (t + shift), "k") for t in range(5)])
    task = NumericSeries(table(tmp_path, target="y"), goal="regress")
    assert (task.scaling.mean, task.scaling.std) == ((2.0,), (math.sqrt(2),))
    assert task.scaling.target == pytest.approx((6, 3 * math.sqrt(2)))
    # x and y are the same number once scaled: the echo is right everywhere, whatever the units
    scores = task.evaluate(Echo(), "test")
    assert scores["rmse"] == pytest.approx(0, abs=1e-2)
    off = task.evaluate(Echo(2.0), "valid")
    away = np.array([3 * (t + 1000) - 6 for t in range(5)], float)
    assert off["rmse"] == pytest.approx(math.sqrt((away**2).mean()), rel=1e-6)
    assert off["mae"] == pytest.approx(np.abs(away).mean(), rel=1e-6)
    assert off["loss"] == pytest.approx((away**2).mean() / 18, rel=1e-6)
    assert off["baseline_rmse"] == pytest.approx(math.sqrt((away**2).mean()), rel=1e-6)


def test_a_forecast_is_of_the_step_that_comes_later(file):
    corpus = table(file, target="y", columns=["x", "y"])
    task = NumericSeries(corpus, goal="forecast", horizon=2)
    assert task.examples["test"] == sum(max(0, len(one) - 2) for one in corpus.splits["test"])
    one = next(one for one in corpus.splits["train"] if len(one) > 3)
    asked = task.whole["train"][[s.name for s in corpus.splits["train"] if len(s) > 2].index(one.name)]
    assert asked.steps.tolist() == list(range(len(one) - 2))
    assert asked.exact.tolist() == [float(text) for text in one.targets[2:]]
    # y rises by 2 at each step: that nothing changes is wrong by 4
    assert task.evaluate(model_for(task), "valid")["baseline_rmse"] == pytest.approx(4)


def test_padding_and_batches_decide_nothing(file):
    task = NumericSeries(table(file), goal="classify", vocabularies=None)
    model = model_for(task)
    scores = [task.evaluate(model, "train", size) for size in (1, 3, 100)]
    for other in scores[1:]:
        assert other == pytest.approx(scores[0], rel=1e-6)
    said = torch.stack(task.predict(model, table(file).splits["train"]))
    right = [task.labels.index(one.targets[0]) for one in table(file).splits["train"]]
    assert scores[0]["accuracy"] == pytest.approx(np.mean(said.argmax(1).numpy() == right))
    assert said.sum(1).tolist() == pytest.approx([1] * len(right))


def test_stretches_have_every_target_once(file):
    corpus = table(file, target="y")
    whole = NumericSeries(corpus, goal="regress")
    cut = NumericSeries(corpus, goal="regress", longest=2)
    targets = [torch.cat([b.targets for b in task.batches(1, 1)]).sort().values for task in (whole, cut)]
    assert torch.equal(*targets)
    assert max(len(b.inputs) for b in cut.batches(1, 1)) == 2
    assert cut.evaluate(Echo(), "train") == whole.evaluate(Echo(), "train")


def test_what_is_missing_is_read_as_the_mean_and_not_scored(tmp_path):
    rows = [(f"g{g}", t, "" if t == 1 else t, "?" if t == 2 else t, "k") for g in range(6) for t in range(4)]
    file = write(tmp_path, "rows.csv", rows)
    with pytest.raises(InputError, match=r"rows.csv', line 3, column 'x' has no number \(6 are missing\)"):
        table(file, target="y")
    full = write(tmp_path, "y.csv", [(*row[:2], 1, *row[3:]) for row in rows])
    with pytest.raises(InputError, match=r"y.csv', line 4, column 'y' has no number"):
        NumericSeries(table(full, target="y"), goal="regress")
    task = NumericSeries(table(file, target="y", missing="mask"), goal="regress")
    assert task.sizes["input_size"] == 2
    assert task.scaling.mean == (pytest.approx(5 / 3),)
    asked = task.whole["train"][0]
    assert asked.inputs[:, 1].tolist() == [0, 1, 0, 0]
    assert asked.inputs[1, 0] == 0
    assert asked.steps.tolist() == [0, 1, 3]


WRONG = [
    ({"goal": "classify", "horizon": 2}, {}, "horizon is 2, and the goal is classify"),
    ({"goal": "forecast", "per": "series"}, {"target": "y"}, "per is 'series', and the goal is forecast"),
    ({"longest": 3}, {}, "longest is 3, and the goal is one answer per series"),
    ({"goal": "regress"}, {"target": "y", "columns": ["x", "y"]}, "columns has the target 'y'"),
    ({"goal": "regress"}, {}, r"rows.csv', line 2, column 'kind' is 'even'; a finite number is needed"),
    ({"goal": "classify"}, {"target": "y"}, r"line 3, column 'y' is '2.5', and before it 'g0' has '0.5'"),
    (
        {"goal": "forecast", "horizon": 9},
        {"target": "y"},
        "no series of the train split has a number in 'y' 9 steps",
    ),
]


@pytest.mark.parametrize(("settings", "read", "said"), WRONG, ids=[row[2][:20] for row in WRONG])
def test_what_does_not_fit_the_goal_is_one_sentence(file, settings, read, said):
    with pytest.raises(InputError, match=said) as error:
        NumericSeries(table(file, **read), **settings)
    assert "\n" not in str(error.value)


def test_one_label_is_refused(tmp_path):
    file = write(tmp_path, "rows.csv", [(g, 0, 1, 2, "k") for g in range(9)])
    with pytest.raises(InputError, match="label 'k' everywhere"):
        NumericSeries(table(file))


# --- from the file to the prediction


def settings(goal, file, **corpus):
    own = {"name": "table", "path": str(file), "group": "id", "time": "t", **corpus}
    return [
        "model.hidden_sizes=[6]",
        "epochs=2",
        "threads=1",
        f"task={{name: series, goal: {goal}, batch_size: 8}}",
        f"task.corpus={{{', '.join(f'{key}: {value}' for key, value in own.items())}}}",
    ]


@pytest.mark.parametrize(
    ("goal", "corpus", "names"),
    [
        ("classify", {"target": "kind", "columns": "[x, y]"}, ["id", "kind", "probability"]),
        ("regress", {"target": "y", "columns": "[x]"}, ["id", "t", "y"]),
        ("forecast", {"target": "y", "columns": "[x, y]", "split": "time"}, ["id", "t", "y+1"]),
    ],
)
def test_a_moved_run_predicts_what_it_did_beside_its_data(tmp_path, goal, corpus, names):
    file = write(tmp_path, "rows.csv", rows_of(24, steps=lambda group: 30 + group % 5))
    new = write(tmp_path, "new.csv", [row[:4] for row in rows_of(3, first=40)], "id,t,x,y")
    run = tmp_path / "run"
    done = invoke("train", "series/vowels-dense", *settings(goal, file, **corpus), "--out", run)
    assert done.exit_code == 0, done.output
    assert f"sparsernn predict {run}" in done.output
    beside = invoke("predict", run, new)
    assert beside.exit_code == 0, beside.output
    task = open_run(run).task
    file.unlink()
    moved = shutil.move(run, tmp_path / "elsewhere")
    assert invoke("predict", moved, new, "--out", tmp_path / "said.csv").output == ""
    assert (tmp_path / "said.csv").read_text() == beside.output
    assert open_weights(moved).task.scaling == task.scaling
    header, *rows = csv.reader(io.StringIO(beside.output))
    assert header == names
    if goal == "classify":
        assert [row[0] for row in rows] == ["g40", "g41", "g42"]
        assert {row[1] for row in rows} <= {"even", "odd"}
        assert all(0.5 <= float(row[2]) <= 1 for row in rows)
    else:
        assert [row[:2] for row in rows] == [[r[0], str(r[1])] for r in rows_of(3, first=40)]
        assert all(math.isfinite(float(row[2])) for row in rows)
    assert (invoke("evaluate", moved).exit_code, invoke("predict", moved, file).exit_code) == (2, 2)


def test_predictions_are_in_the_unit_of_the_target(file):
    """The echo says the scaled x, which is the scaled y: y comes out."""
    task = NumericSeries(table(file, target="y"), goal="regress")
    series = series_of(read_table(file), Reading(("x",), "y", "id", "t"), with_targets=False)
    for one, said in zip(series, task.predict(Echo(), series), strict=True):
        assert said.numpy() == pytest.approx(2 * one.values[:, 0] + 0.5, rel=1e-5)


def test_other_runs_predict_no_series(tmp_path):
    run = tmp_path / "run"
    more = ["epochs=1", "task.iterations=2", "task.eval_sequences=4", "model.hidden_sizes=[4]", "threads=1"]
    assert invoke("train", "nnrnn/adding-lstm", *more, "--out", run).exit_code == 0
    done = invoke("predict", run, "rows.csv")
    assert done.exit_code == 2
    assert "predictions are made by a run of series" in done.stderr


def test_a_run_has_a_runtime_and_a_bench(tmp_path):
    file = write(tmp_path, "rows.csv", rows_of(24, steps=lambda group: 30 + group % 5))
    run = tmp_path / "run"
    own = settings("classify", file, target="kind", columns="[x, y]")
    assert invoke("train", "series/vowels-dense", *own, "--out", run).exit_code == 0
    opened = open_weights(run)
    opened.load_best()
    rows = list(CORPORA["table"](file, "kind", group="id", time="t", columns=["x", "y"]).splits["train"])
    wanted = opened.task.predict(opened.model, rows[:3])
    reader = runtime(opened.model, products="dense", threads=1)
    inputs = [opened.task.scaling.read(series.values) for series in rows[:3]]
    lengths = [len(x) for x in inputs]
    whole = reader.read(nn.utils.rnn.pad_sequence(inputs), lengths)
    stream = reader.stream()
    for x, n, k in zip(inputs, lengths, range(3), strict=True):
        torch.testing.assert_close(whole[n - 1, k].double().softmax(-1), wanted[k], rtol=1e-4, atol=1e-6)
        stream.state = reader.stream().state
        steps = [stream.step(row.unsqueeze(0)) for row in x]
        torch.testing.assert_close(steps[-1][0], whole[n - 1, k])
    for words in ((), ("--window", "7")):
        output = invoke("bench", run, "--repeats", "1", *words).output
        assert all(f" {name} " in output for name in ("torch", "dense", "csr")), output
        assert "\nbatch 1: " in output
    assert "7 steps in one call" in output
    log = (run / "metrics.jsonl").read_text()
    assert log.count('"event": "sizes"') == 2  # of the training's end, and of the first bench
    assert "Latency per step" in (run / "report.html").read_text()
    assert "must be numbers from 1 to 16" in invoke("bench", run, "--batch-size", "17").output


@pytest.mark.parametrize("values", ["int8", "int4"])
def test_a_run_is_calibrated_packed_and_read_from_the_file(tmp_path, values):
    file = write(tmp_path, "rows.csv", rows_of(24, steps=lambda group: 30 + group % 5))
    run, packed = tmp_path / "run", tmp_path / "m.safetensors"
    own = settings("classify", file, target="kind", columns="[x, y]")
    sparse = "sparsity={name: static, density: 0.5}"
    assert invoke("train", "series/vowels-dense", *own, sparse, "--out", run).exit_code == 0
    output = invoke("pack", run, "--values", values, "--calibrate", "--out", packed).output
    assert re.search(
        rf"test \w+: [\d.]+ in float32, [\d.]+ in {values[-1]} bits, [\d.]+ calibrated", output
    ), output
    told = read_packed(packed).recipe
    opened = open_weights(run)
    assert told["scaling"] == opened.task.scaling.plain()
    assert told["tokens"] == {"labels": ["even", "odd"]}
    opened.model.load_state_dict(unpack(packed))
    x = torch.randn(9, 2, 2)
    found = runtime(unpack(packed), products="dense", threads=1).read(x, [9, 4])
    torch.testing.assert_close(found, runtime(opened.model, products="dense", threads=1).read(x, [9, 4]))
    done = invoke("export", run, "--format", "c", f"--{values}", "--calibrate", "--out", tmp_path / "c")
    assert " calibrated on validation data" in done.output, done.output
