"""What records say of recurrent maps, against what the maps were given."""

import base64
import json
import math
import re
from pathlib import Path

import pytest
import torch

from sparsernn.nn import Elman, Stack
from sparsernn.nn.maps import Dense, Normal, Orthogonal, Rotations
from sparsernn.nn.maps.map_records import LAGS, below_blocks, recurrence, recurrences
from sparsernn.nn.maps.schur_form import schur_form


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(2)


def stirred():
    map = Normal(8, init="random")
    for p in map.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return map


def test_eigenvalues_are_the_radii_and_angles_and_the_departure_is_what_lies_below():
    map = stirred()
    found = recurrence(map)
    radius, angle = map.radius.detach(), map.angle.detach()
    expected = sorted(
        (float(r * a.cos()), float((r * a.sin()).abs())) for r, a in zip(radius, angle, strict=True)
    )
    assert [pytest.approx(pair, abs=1e-4) for pair in expected] == sorted(map_ for map_ in map_pairs(found))
    lower, blocks = float(map.lower.detach().square().sum()), 2 * float(radius.square().sum())
    assert found["departure"] == pytest.approx(math.sqrt(lower / (lower + blocks)), rel=1e-4)
    assert found["radius"] == pytest.approx(float(radius.abs().max()), rel=1e-4)
    assert found["manifold_error"] < 1e-5


def map_pairs(found):
    return [tuple(pair) for pair in found["eigenvalues"]]


def test_a_picture_of_the_schur_form_holds_every_entry_of_a_small_one():
    map = stirred()
    theta = recurrence(map, closely=True)["theta"]
    levels = torch.tensor(list(base64.b64decode(theta["cells"]))).view(theta["side"], -1)
    expected = below_blocks(map.theta()).abs()
    torch.testing.assert_close(levels / 255 * theta["top"], expected.float(), atol=theta["top"] / 500, rtol=0)
    profile = recurrence(map, closely=True)["profile"]
    assert profile[2] == pytest.approx(float(expected.diagonal(-3).mean()), rel=1e-4)


def test_free_matrices_are_brought_into_schur_form():
    map = Dense(9)
    found = recurrence(map, closely=True)
    assert "manifold_error" not in found
    below = below_blocks(schur_form(map.weight)[1])
    assert found["profile"][0] == pytest.approx(float(below.diagonal(-1).abs().mean()), rel=1e-4)
    assert found["theta"]["top"] == pytest.approx(float(below.abs().max()), rel=1e-4)


@pytest.mark.parametrize("map", [Orthogonal(6), Rotations(6), Normal(6), Dense(6, init="random")])
def test_orthogonal_matrices_remember_every_step_alike(map):
    found = recurrence(map, closely=True)
    assert found["memory"] == pytest.approx([1 / LAGS] * LAGS, rel=1e-3)
    assert found["growth"] == pytest.approx([1.0] * (LAGS + 1), rel=1e-3)
    assert found["radius"] == pytest.approx(1, abs=1e-5)
    assert found["departure"] < 1e-3


def test_the_memory_of_a_contraction_is_geometric():
    map = Dense(4)
    map.weight.data.copy_(0.5 * torch.eye(4))
    expected = [0.75 * 0.25**k for k in range(LAGS)]  # the covariance is 1 / (1 - 0.25) in every direction
    assert recurrence(map, closely=True)["memory"] == pytest.approx(expected, rel=1e-4)


def test_unitary_maps_show_all_eigenvalues():
    found = recurrence(Rotations(6, complex=True), closely=True)
    assert len(found["eigenvalues"]) == 6
    assert "theta" not in found


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_networks_that_blew_up_can_still_be_recorded(value):
    map = Dense(4)
    map.weight.data[0, 0] = value
    json.dumps(recurrence(map, closely=True), allow_nan=False)


def test_all_maps_of_a_model_are_found_and_nothing_is_changed():
    model = Stack([Elman(3, 4, map="orthogonal"), Elman(4, 6, map={"name": "orthogonal", "rebase_every": 1})])
    before, drawn = [t.clone() for t in model.state_dict().values()], torch.get_rng_state()
    assert [row["name"] for row in recurrences(model.train(), closely=True)] == ["0.cell.map", "1.cell.map"]
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(drawn, torch.get_rng_state())
    assert recurrences(torch.nn.LSTM(2, 2)) == []


def test_the_example_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "long-memory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "long-memory.md", "exec"), {})
