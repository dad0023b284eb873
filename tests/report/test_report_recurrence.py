"""Pictures of recurrent matrices from records alone, whole or damaged."""

import base64
import math

import pytest

from sparsernn.report.charts.recurrence_charts import recurrence_pictures
from sparsernn.report.story.history import RunRecord


def row(name="layers.0.cell.map", scale=1.0, **more):
    pairs = [[scale, 0.0], [0.0, scale], [-scale * 0.6, scale * 0.8]]
    return {
        "name": name,
        "map": "normal",
        "size": 5,
        "manifold_error": 1e-7 * scale,
        "radius": scale,
        "departure": scale - 1,
        "eigenvalues": pairs,
        **more,
    }


def closely(**more):
    theta = {"side": 2, "top": 0.5, "cells": base64.b64encode(bytes([0, 0, 255, 0])).decode()}
    return {
        "memory": [0.4, 0.2, 0.0],
        "growth": [1.0, 2.0, 0.5],
        "profile": [0.3, 0.1],
        "theta": theta,
        **more,
    }


def record(events, tmp_path):
    return RunRecord(tmp_path, {}, {}, tuple({"event": "recurrence", **e} for e in events))


def drawn(tmp_path, *events, gradients=()):
    run = record(events, tmp_path)
    events = (*run.events, *({"event": "gradient", **g} for g in gradients))
    return {f.title: f for f in recurrence_pictures(RunRecord(tmp_path, {}, {}, events))}


LIFE = (
    {"epoch": 0, "closely": True, "maps": [row(**closely())]},
    {"epoch": 1, "closely": False, "maps": [row(scale=1.1)]},
    {"epoch": 2, "closely": False, "maps": [row(scale=1.2)]},
    {"epoch": 1, "closely": True, "maps": [row(scale=1.1, **closely())]},
)


def test_every_picture_of_a_finished_run(tmp_path):
    found = drawn(
        tmp_path, *LIFE, gradients=[{"epoch": 0, "norms": [1, 0.5]}, {"epoch": 1, "norms": [1, 0.01]}]
    )
    assert list(found) == [
        "Eigenvalues",
        "Schur form",
        "Orthogonality error",
        "Departure from normality",
        "Largest eigenvalue",
        "Schur form by diagonal",
        "Fisher memory",
        "Growth of a signal",
        "Gradient by time lag",
    ]
    spectrum = found["Eigenvalues"]
    assert spectrum.body.count("<circle") == 2 * 5  # two conjugates are drawn, the real one once
    assert [label for _, _, label in spectrum.legend] == ["first weights", "after epoch 1"]
    assert "from 1e-07 to 1.2e-07" in found["Orthogonality error"].alt, (
        "the tested weights are no later epoch"
    )
    assert "log" in found["Gradient by time lag"].unit


def test_a_run_that_still_goes_on_shows_its_latest_epoch(tmp_path):
    found = drawn(tmp_path, *LIFE[:3])
    assert found["Eigenvalues"].legend[-1][2] == "after epoch 2"
    assert "first weights" in found["Schur form"].unit


def test_points_lie_where_their_eigenvalues_are(tmp_path):
    body = drawn(tmp_path, {"epoch": 0, "maps": [row()]})["Eigenvalues"].body
    assert 'cx="110.0" cy="-0.0"' in body
    assert 'cx="0.0" cy="-110.0"' in body  # the imaginary axis runs up
    assert 'cx="-66.0" cy="88.0"' in body  # the conjugate


def test_several_layers_are_told_apart(tmp_path):
    maps = [row("layers.0.cell.map"), row("layers.1.cell.map")]
    found = drawn(tmp_path, {"epoch": 0, "maps": maps}, {"epoch": 1, "maps": maps})
    assert "Eigenvalues, layers.1" in found
    assert len(found["Largest eigenvalue"].legend) == 2


@pytest.mark.parametrize(
    "maps",
    [
        None,
        [None],
        [{}],
        [{"name": "a", "eigenvalues": [[math.nan, 0.0]], "memory": [], "profile": [math.nan]}],
        [{"name": "a", "theta": {"side": 3, "cells": "AAAA", "top": 1}}],
        [{"name": "a", "theta": {"side": 1, "cells": "?", "top": 1}}],
        [{"name": "a", "theta": {}}],
    ],
)
def test_damaged_records_leave_pictures_out(tmp_path, maps):
    assert drawn(tmp_path, {"epoch": 0, "maps": maps}, gradients=[{"norms": []}, {"norms": [math.nan]}]) == {}
    assert recurrence_pictures(RunRecord(tmp_path, {}, {}, ())) == []
