"""Scales, curves, density maps and the little PNG writer."""

import math
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.report.charts.chart import Axes, Marks, Series, chart
from sparsernn.report.charts.run_charts import thin
from sparsernn.report.charts.scale import scale_for
from sparsernn.report.charts.svg import Figure, spread, standalone
from sparsernn.report.story.checkpoint_tensors import density_map, histogram, png, tensors_of

TEXT = "{http://www.w3.org/2000/svg}text"
values = st.lists(st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9), min_size=1, max_size=20)


@given(values, st.booleans(), st.booleans())
def test_scales_show_all_values_with_a_few_ticks(found: list[float], log: bool, padded: bool) -> None:
    scale = scale_for(found, log=log, padded=padded)
    assert all(-1e-6 <= scale(v) <= 100 + 1e-6 for v in found)
    ticks = scale.ticks()
    assert len(ticks) <= 8
    slack = 1e-9 * (abs(scale.low) + abs(scale.high))
    assert all(scale.low - slack <= v <= scale.high + slack for v, _ in ticks)


@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_never_touch(places: list[float]) -> None:
    moved = spread(sorted(places), 13, 0, 100)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(moved))


def test_a_chart_is_interrupted_at_nan_and_left_out_without_points() -> None:
    nan = math.nan
    figure = chart("t", [Series("a", [0, 1, 2, 3, 4], [1, 2, nan, 4, 5])], Axes())
    assert figure is not None
    assert next(part for part in figure.body.split("<path")[1:]).count("M") == 2
    assert chart("t", [Series("a", [0, 1], [nan, nan])], Axes()) is None
    assert chart("t", [], Axes()) is None


def test_epochs_are_whole() -> None:
    figure = chart("t", [Series("a", [1, 2], [3, 4])], Axes())
    assert figure is not None
    assert ">0.5<" not in figure.body
    assert ">1<" in figure.body


@pytest.mark.parametrize("look", ["line", "dashed", "area", "dots"])
@pytest.mark.parametrize("log", [False, True])
def test_every_look_gives_readable_xml(look: str, log: bool) -> None:
    series = [Series("a <b> & c", [1, 2, 3], [0.5, 5, 50], k, look, tag=str(k)) for k in range(8)]
    figure = chart("<t>", series, Axes("&", log=log), marks=Marks(((2.0, "<now>"),), (1.0, 2.0), "tick"))
    if figure is not None:
        ElementTree.fromstring(standalone(figure))


def test_thinning_keeps_the_mean_and_the_extremes() -> None:
    x = [float(k) for k in range(1000)]
    y = [math.sin(k) for k in x]
    xs, ys, band = thin(x, y, most=100)
    assert len(xs) == len(ys) == 100
    assert sum(ys) / 100 == pytest.approx(sum(y) / 1000, abs=1e-9)
    assert band is not None
    assert (min(band.low), max(band.high)) == (min(y), max(y))


def test_a_density_map_keeps_the_density_and_shows_where_it_is() -> None:
    mask = torch.zeros(800, 200, dtype=torch.bool)
    mask[:400] = True
    cells = density_map(mask)
    assert cells.shape[0] <= 200
    assert cells.shape[1] <= 60
    assert float(cells.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(cells[0].min()) == 1.0
    assert float(cells[-1].max()) == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 1000), (1000, 4), (10000, 1500)])
def test_density_maps_of_any_shape(shape: tuple[int, int]) -> None:
    cells = density_map(torch.ones(shape, dtype=torch.bool))
    assert bool((cells == 1).all())


def test_the_png_holds_the_opacities() -> None:
    data = png(torch.tensor([[0.0, 0.5, 1.0], [1.0, 2.0, -1.0]]), (1, 2, 3))
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    at = data.index(b"IDAT")
    size = struct.unpack(">I", data[at - 4 : at])[0]
    assert zlib.decompress(data[at + 4 : at + 4 + size]) == bytes([0, 0, 128, 255, 0, 255, 255, 0])
    assert struct.unpack(">I", data[at + 4 + size : at + 8 + size])[0] == zlib.crc32(data[at : at + 4 + size])


def test_a_histogram_counts_shares_inside_its_edges() -> None:
    counts = histogram(torch.tensor([-5.0, -0.5, 0.5, 0.6, 5.0]), torch.linspace(-1, 1, 3))
    assert counts == pytest.approx([0.2, 0.4])


def test_tensors_of_a_checkpoint_tree() -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(2)}
    mask = torch.tensor([[True, False], [True, True]])
    state = {1: {"step": 3}, 0: {"average": torch.full((2, 2), 0.5), "count": torch.tensor([[1, 0], [2, 0]])}}
    tree = {
        "model": weights,
        "optimizer": {"state": state},
        "sparsifier": {"members": [{}, {"masks": {"a": mask}}]},
    }
    found = tensors_of(tree)
    assert found.weights.keys() == {"a", "b"}
    assert found.masks.keys() == {"a"}
    assert found.averages.keys() == {"a"}
    assert torch.isnan(found.averages["a"]).tolist() == [[False, True], [False, True]]


def test_a_tree_without_sparsity_or_averages() -> None:
    found = tensors_of({"model": {"a": torch.ones(1)}, "sparsifier": {}, "optimizer": None})
    assert not found.masks
    assert not found.averages


@pytest.mark.parametrize(
    ("label", "columns"), [("dense", 3), ("a label of some 40 letters, n = 3", 2), ("w" * 60, 1)]
)
def test_entries_of_a_legend_do_not_meet(label: str, columns: int) -> None:
    figure = Figure("A chart", "", "nothing", legend=tuple(("s0", "line", label) for _ in range(4)))
    entries = [e for e in ElementTree.fromstring(standalone(figure)).iter(TEXT) if e.text == label]
    places = [(float(e.get("x")), float(e.get("y"))) for e in entries]
    assert len({x for x, _ in places}) == columns
    assert len(set(places)) == 4
    apart = [b[0] - a[0] for a, b in pairwise(places) if a[1] == b[1]]
    assert all(gap > 6 * len(label) for gap in apart)
