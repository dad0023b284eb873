"""Pictures and tables of units: which live, how their norms went, what removing the others brought."""

import base64
import re
import struct
import zlib
from pathlib import Path

from sparsernn.report import RunRecord
from sparsernn.report.charts.unit_charts import (
    compact_table,
    living_units,
    proof_sentence,
    structure_pictures,
    structure_tables,
)

RECORD = {
    "event": "compact",
    "source": "big",
    "tol": 0.0,
    "weak": 0,
    "layers": [{"name": "layer 0", "before": 4, "after": 2}, {"name": "layer 1", "before": 3, "after": 3}],
    "kept": [[0, 2], [0, 1, 2]],
    "parameters": [4000, 1000],
    "macs_per_token": [900, 300],
    "bytes": {"best.safetensors": [2048, 1024]},
    "difference": 2.5e-16,
    "loss_difference": 0.0,
    "batches": 4,
    "numbers": 1234,
    "latency": [
        {"runtime": "before", "batch": 10, "ms_per_token": 6.0},
        {"runtime": "after", "batch": 10, "ms_per_token": 2.0},
    ],
}


def epoch(number, *layers):
    """A record "units"; a layer is (name, norms)."""
    rows = [
        {"name": name, "width": len(norms), "dead": norms.count(0), "norms": norms} for name, norms in layers
    ]
    return {"event": "units", "epoch": number, "layers": rows}


def record(*events):
    return RunRecord(Path("run"), {}, {}, tuple(events))


def test_a_run_without_units_shows_nothing():
    assert structure_pictures(record()) == ()
    assert structure_tables(record()) == ()


def test_norms_and_living_units_are_drawn_for_every_layer():
    events = [
        epoch(1, ("layer 0", [3.0, 2.0, 1.0, 0.5]), ("layer 1", [1.0, 1.0])),
        epoch(2, ("layer 0", [3.0, 0.0, 1.0, 0.0]), ("layer 1", [1.0, 2.0])),
    ]
    pictures = structure_pictures(record(*events))
    assert [p.title for p in pictures] == [
        "Living units",
        "Norms of layer 0",
        "Norms of layer 1",
        "Structure",
    ]
    assert [p.unit for p in pictures[1:3]] == ["2 of 4 units live", "2 of 2 units live"]
    assert "layer 0: 2 of 4" in pictures[3].body
    assert "layer 1 2 of 2" in pictures[3].alt


def test_after_a_removal_only_epochs_of_the_new_widths_are_drawn_together():
    events = [
        epoch(1, ("layer 0", [1.0, 0.0])),
        RECORD,
        epoch(2, ("layer 0", [1.0])),
        epoch(3, ("layer 0", [2.0])),
    ]
    pictures = structure_pictures(record(*events))
    assert "epoch 2" in pictures[1].body
    assert "1 of 1 units live" in pictures[1].unit
    assert "layer 0: 2 of 4" in pictures[-1].body  # the structure is that of the removal


def test_the_table_has_before_after_and_how_many_times_smaller():
    table = compact_table(RECORD)
    assert table.rows == (
        ("units of layer 0", "4", "2", "2.00×"),
        ("units of layer 1", "3", "3", "1.00×"),
        ("parameters", "4,000", "1,000", "4.00×"),
        ("multiply-adds per step", "900", "300", "3.00×"),
        ("best.safetensors", "2.00 KiB", "1.00 KiB", "2.00×"),
        ("time per step, batch 10", "6.00 ms", "2.00 ms", "3.00×"),
    )
    assert structure_tables(record(RECORD)) == (table,)


def test_the_proof_names_the_difference_and_what_was_weak():
    sentence = proof_sentence(RECORD)
    assert "float64 is 2.50e-16, over 1,234 numbers of 4 batches" in sentence
    assert "were not 0" not in sentence
    weak = proof_sentence(RECORD | {"weak": 2, "tol": 0.1})
    assert "2 units were not 0, but had norms below 0.1." in weak


def test_living_units_before_and_after_a_removal():
    events = [epoch(1, ("layer 0", [1.0, 0.0, 2.0, 0.0]), ("layer 1", [1.0, 0.0, 1.0]))]
    assert living_units(record()) == ([], [])
    assert living_units(record(*events)) == ([2, 2], [4, 3])
    assert living_units(record(*events, RECORD)) == ([2, 3], [4, 3])


def test_the_weakest_unit_that_lives_is_not_drawn_as_a_dead_one():
    events = [epoch(1, ("layer 0", [100.0, 1e-3, 0.0]))]
    norms = structure_pictures(record(*events))[0]
    data = base64.b64decode(re.search(r"base64,([^\"]*)", norms.body)[1])
    opacities = [row[-1] for row in _rows(data)]
    assert opacities[0] == 255
    assert 30 < opacities[1] < 60
    assert opacities[2] == 0


def _rows(data):
    """The rows of bytes of a picture whose rows are not filtered."""
    width, height = struct.unpack(">II", data[16:24])
    body, place = b"", 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            body += data[place + 8 : place + 8 + size]
        place += 12 + size
    raw = zlib.decompress(body)
    step = len(raw) // height
    assert width == 1
    return [raw[k * step : (k + 1) * step] for k in range(height)]
