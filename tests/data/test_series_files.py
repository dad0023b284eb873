"""Series out of CSV, NPZ, Parquet and .ts: what is read, how it is split, and what is refused in which words."""

import gzip
import sys

import numpy as np
import pytest

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA
from sparsernn.data.series_corpus import Reading, series_of
from sparsernn.data.series_files import vowels
from sparsernn.data.table_files import read_table

table = CORPORA["table"]
ROWS = [("a", 2, 1.5), ("b", 1, -1.0), ("a", 1, 0.25)]
TEXT = "id,t,x\n" + "\n".join(",".join(map(str, row)) for row in ROWS) + "\n"


def read(path, **settings):
    reading = Reading(("x",), "y", **{"group": "id", "time": "t", **settings})
    return series_of(read_table(path), reading, with_targets=False)


def check(path):
    """The three rows, in the order of time."""
    found = read(path)
    assert [(one.name, one.times, one.values[:, 0].tolist()) for one in found] == [
        ("a", ("1", "2"), [0.25, 1.5]),
        ("b", ("1",), [-1.0]),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TEXT.encode()),
        ("a.csv", b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()),
        ("a.csv", TEXT.replace(",", ";").encode()),
        ("a.csv", TEXT.replace("id", '"id"').replace("a,", '"a",').encode() + b"\n\n"),
        ("a.tsv", TEXT.replace(",", "\t").encode()),
        ("a.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
    ],
)
def test_a_text_table_is_read_however_it_is_written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    check(tmp_path / name)


def test_arrays_are_columns(tmp_path):
    ids, times, numbers = zip(*ROWS, strict=True)
    np.savez(tmp_path / "a.npz", id=np.array(ids), t=np.array(times), x=np.array(numbers))
    check(tmp_path / "a.npz")


def test_whole_series_are_cut_at_their_end(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    x[1, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=x, kind=np.array(["u", "v"]))
    reading = Reading(None, "kind", "series").settled(read_table(tmp_path / "a.npz"))
    assert reading.columns == ("x.1", "x.2")
    one, two = series_of(read_table(tmp_path / "a.npz"), reading)
    assert one.values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert two.values.tolist() == [[6, 7], [8, 9]]
    assert (one.targets, two.targets) == (("u",) * 3, ("v",) * 2)


def test_a_file_of_the_archives_is_read(tmp_path):
    (tmp_path / "a.ts").write_text("# text\n@problemName a\n@data\n1,2:3,4:yes\n5:?:no\n")
    held = read_table(tmp_path / "a.ts")
    assert held.numbers("c1").tolist() == [1, 2, 5]
    assert held.texts("label") == ["yes", "yes", "no"]
    assert held.texts("series") == ["1", "1", "2"]
    assert held.where(2) == f"'{tmp_path / 'a.ts'}', line 5"


def test_parquet_is_read_or_names_the_package(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(InputError, match=r"a Parquet file, needs pyarrow: pip install pyarrow; CSV"):
            read_table(tmp_path / "a.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(InputError, match="is no Parquet file"):
        read_table(tmp_path / "a.parquet")
    ids, times, numbers = zip(*ROWS, strict=True)
    parquet.write_table(arrow.table({"id": ids, "t": times, "x": numbers}), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet")


def test_times_may_be_dates(tmp_path):
    (tmp_path / "a.csv").write_text("t,x\n2024-03-01T06:00,1\n2024-02-28,2\n")
    (one,) = read(tmp_path / "a.csv", group=None)
    assert one.values[:, 0].tolist() == [2, 1]


def many(folder, groups=50, steps=4):
    rows = [f"g{g},{10 * t + g % 3},{g + t},{g % 2}" for g in range(groups) for t in range(steps)]
    (folder / "rows.csv").write_text("id,t,x,y\n" + "\n".join(rows) + "\n")
    return folder / "rows.csv"


def test_by_group_series_stay_whole_and_stay_where_they_are(tmp_path):
    few = table(many(tmp_path, 50), "y", group="id", time="t")
    names = {split: {one.name for one in found} for split, found in few.splits.items()}
    assert sum(map(len, names.values())) == 50 == len(set().union(*names.values()))
    assert all(len(one) == 4 for found in few.splits.values() for one in found)
    more = table(many(tmp_path, 500), "y", group="id", time="t")
    for split, found in more.splits.items():
        assert names[split] <= {one.name for one in found}, "new series move no old one"
    assert 0.74 < len(more.splits["train"]) / 500 < 0.86
    again = table(many(tmp_path, 500), "y", group="id", time="t", shares=[50, 25, 25])
    assert 0.43 < len(again.splits["train"]) / 500 < 0.57


def test_by_time_nothing_is_tested_on_that_is_older_than_what_was_trained_on(tmp_path):
    corpus = table(many(tmp_path), "y", group="id", time="t", split="time", shares=[50, 25, 25])
    ends = {s: [t for one in found for t in one.order] for s, found in corpus.splits.items()}
    assert max(ends["train"]) < min(ends["valid"]) <= max(ends["valid"]) < min(ends["test"])
    assert sum(map(len, ends.values())) == 200
    one = table(many(tmp_path), "x", columns=["y"], split="time")
    assert [len(one.splits[split][0]) for split in ("train", "valid", "test")] == [160, 20, 20]


def test_a_folder_has_a_file_for_each_split(tmp_path):
    for split in ("train", "test"):
        many(tmp_path, 9).rename(tmp_path / f"{split}.csv")
    with pytest.raises(InputError, match="has no valid file"):
        table(tmp_path, "y", group="id")
    held = table(tmp_path, "y", group="id", held_out=0.3, columns=["x"])
    assert held.info["series"]["train"] + held.info["series"]["valid"] == held.info["series"]["test"] == 9
    assert held.info["note"] == "valid is 0.3 of the series of the train file"
    moved = table(tmp_path, "y", group="id", splits={"valid": "test"}, columns=["x"])
    assert moved.info["sha256"]["valid"] == moved.info["sha256"]["test"]
    assert moved.info["note"] == "valid is read from the test file"


def test_a_number_that_changes_changes_the_hash(tmp_path):
    before = table(many(tmp_path), "y", group="id", time="t").info["sha256"]
    file = tmp_path / "rows.csv"
    file.write_text(file.read_text().replace("g7,1,7,1", "g7,1,7.5,1"))
    after = table(file, "y", group="id", time="t").info["sha256"]
    assert [split for split in before if before[split] != after[split]] == ["train"]


BAD = [
    ("id,t,x\na,1,2\na,2,z\n", {}, r"line 3, column 'x' is 'z'; a finite number is needed"),
    ("id,t,x\na,1,2\na,2,1,5\n", {}, "line 3 has 4 columns, and the line of names has 3"),
    ("id,t,x\na,1,inf\n", {}, "line 2, column 'x' is 'inf'"),
    ("id,t,x\na,1,1_0\n", {}, "line 2, column 'x' is '1_0'"),
    ("id,t,x\na,1,2\na,2,NA\n", {}, r"line 3, column 'x' has no number \(1 are missing\)"),
    ("id,t,x\na,1,2\n,2,3\n", {}, "line 3, column 'id' is empty"),
    ("id,t,x\na,1,2\na,1.0,3\n", {}, r"line 3, column 't' has the time 1.0 again"),
    ("id,t,x\na,1,2\na,,3\n", {}, "line 3, column 't' has no time"),
    (
        "id,t,x\na,2020-01-01,2\na,20200102,3\n",
        {},
        r"dates, such as '2020-01-01' \(.*line 2\), and numbers, such as '20200102'",
    ),
    ("id,t,x\na,1,2\na,Monday,3\n", {}, "line 3, column 't' is 'Monday'; a time is a number or a date"),
    ("id,t,z\na,1,2\n", {}, "has no column 'x', which columns names; it has: id, t, z"),
    ("id,t,x\na,1,2\n", {"group": "ids"}, r"has no column 'ids', which group names.*Did you mean 'id'"),
    ("id,t,x,x\na,1,2,3\n", {}, "has the column 'x' twice"),
    ("id,t,x\n", {}, "has no rows"),
    ('id,t,x\n"a,1,2\n', {}, "is no line of a table"),
]


@pytest.mark.parametrize(("text", "settings", "said"), BAD, ids=[row[2][:30] for row in BAD])
def test_a_fault_is_one_sentence_with_file_line_and_column(tmp_path, text, settings, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path / "a.csv", **settings)
    assert "a.csv'" in str(error.value)
    assert "\n" not in str(error.value)


ARRAYS = [
    ({"x": np.zeros(3), "y": np.zeros(2)}, "has 3 rows in 'x' and 2 in 'y'"),
    ({"x": np.array([{}, {}])}, "is no NPZ file of plain arrays"),
    ({"x": np.zeros((2, 3)), "z": np.zeros((2, 4))}, r"whole series are \(N, T\)"),
    ({"x": np.zeros(2, complex)}, "has complex128 in 'x'"),
    ({"x": np.float64(3)}, "has no array"),
]


@pytest.mark.parametrize(("arrays", "said"), ARRAYS, ids=[row[1][:20] for row in ARRAYS])
def test_arrays_that_are_no_columns_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_table(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="is no NPZ file"):
        read_table(tmp_path / "a.npz")


SPLITS = [
    (
        {"group": None, "time": None, "columns": ["x"]},
        r"too few series \(one, for no column is named as group\)",
    ),
    ({"time": None, "split": "time"}, "is split by time, and its series have none"),
    ({"shares": [80, 10, 5]}, "shares is"),
    ({"target": "t", "time": "t"}, "each needs another column"),
    ({"columns": ["x", "x"]}, "each needs another column"),
    ({"columns": []}, "has no column beside"),
    ({"separator": "pipe"}, "separator is 'pipe'"),
]


@pytest.mark.parametrize(("settings", "said"), SPLITS, ids=[row[1][:20] for row in SPLITS])
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        table(
            many(tmp_path),
            **{"target": "y", "group": "id", "time": "t", **settings},
        )


def test_vowels_without_files_say_where_they_come_from(monkeypatch):
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs aeon: pip install --no-deps aeon; or name a folder"):
        vowels()
