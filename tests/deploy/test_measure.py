"""Costs: counts against numbers worked out by hand, timings for their form only."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.deploy import LSTMRuntime, compare, macs_per_token, measure_latency, sizes
from sparsernn.models.language_model import LanguageModel


def test_the_large_model_takes_51_million_macs():
    with torch.device("meta"):
        model = LanguageModel(10000, 1500, [1500, 1500])
    # 4 gates x 1500 x (1500 + 1500) x 2 layers + 10000 x 1500 in the head
    assert macs_per_token(model) == 51_000_000


def test_masks_tied_weights_and_plain_tensors():
    model = LanguageModel(100, 20, [30, 20], tied=True)
    dense = 4 * 30 * (20 + 30) + 4 * 20 * (30 + 20) + 100 * 20
    assert macs_per_token(model) == macs_per_token(model.state_dict()) == dense
    masks = {"layers.0.weight_hh": torch.zeros(120, 30, dtype=torch.bool)}
    assert macs_per_token(model, masks) == dense - 120 * 30
    masks = {"embedding.weight": torch.eye(100, 20, dtype=torch.bool)}
    assert macs_per_token(model, masks) == dense - 2000 + 20


def test_an_untied_embedding_costs_nothing():
    model = LanguageModel(100, 20, [30])
    masks = {"embedding.weight": torch.zeros(100, 20, dtype=torch.bool)}
    assert macs_per_token(model, masks) == macs_per_token(model) == 4 * 30 * 50 + 100 * 30


def test_sizes_count_tied_weights_once():
    model = LanguageModel(100, 20, [20], tied=True)
    numbers = 100 * 20 + 2 * 80 * 20 + 2 * 80 + 100
    assert sizes(model.state_dict(), {})["dense_bytes"] == 4 * numbers
    masks = {"embedding.weight": torch.ones(100, 20, dtype=torch.bool)}
    packed = sizes(model.state_dict(), masks)
    assert packed["packed_bytes"] == 4 * numbers + 2000 // 8
    assert packed["packed_int8_bytes"] == 4 * numbers + 2000 // 8 - 3 * 2000 + 4 * 100


def test_latency_rows():
    model = LanguageModel(30, 8, [8])
    rows = measure_latency({"a": model, "b": LSTMRuntime(model.state_dict(), threads=1)}, batch=2, repeats=2)
    assert [row["runtime"] for row in rows] == ["a", "b"]
    assert all(row["batch"] == 2 and row["ms_per_token"] >= row["fastest_ms"] > 0 for row in rows)
    with pytest.raises(InputError, match="repeats is 0"):
        measure_latency(model, repeats=0)


def test_comparison_always_has_the_dense_forms():
    model = LanguageModel(30, 8, [16])
    rows = compare(model, threads=1, repeats=1)
    assert [row["runtime"] for row in rows] == ["torch", "dense", "dense_int8", "csr", "csr_int8"]
    exact = [row["ratio"] for row in rows if row["runtime"] in ("torch", "dense")]
    assert max(exact) == pytest.approx(1.0)
    assert {row["runtime"]: row["bytes"] for row in rows}["dense_int8"] < rows[0]["bytes"]
