"""Costs: counts against numbers worked out by hand, timings for their form only."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparsernn.core.errors import InputError
from sparsernn.deploy import LSTMRuntime, compare, macs_per_token, measure_latency, sizes
from sparsernn.models.language_model import LanguageModel
from sparsernn.nn.words.characters import CharacterCNN
from sparsernn.nn.words.word_table import WordTable


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


class Named(nn.Module):
    """A language model of torch's modules whose table has the name that it was given."""

    def __init__(self, name, table, tied=False):
        super().__init__()
        setattr(self, name, table)
        self.rnn, self.out = nn.LSTM(16, 24), nn.Linear(24, 100)
        if tied:
            self.out.weight = table.weight


RNN_AND_OUT = 4 * 24 * (16 + 24) + 24 * 100  # 6,240


@pytest.mark.parametrize("name", ["embedding", "encoder", "wte"])
@pytest.mark.parametrize(
    "table",
    [
        lambda: nn.Embedding(100, 16),
        lambda: nn.EmbeddingBag(100, 16),
        lambda: type("Mine", (nn.Embedding,), {})(100, 16),
        lambda: WordTable(60, 16, fixed=40),
    ],
)
def test_an_embedding_is_known_by_its_type(name, table):
    assert macs_per_token(Named(name, table())) == RNN_AND_OUT == 6240


def test_the_name_embedding_alone_hides_nothing():
    assert macs_per_token(Named("embedding", nn.Linear(16, 100))) == RNN_AND_OUT + 1600


def test_a_tied_table_of_any_name_counts_once():
    model = Named("wte", nn.Embedding(100, 24), tied=True)
    assert macs_per_token(model) == RNN_AND_OUT
    assert macs_per_token(model, {"wte.weight": torch.eye(100, 24, dtype=torch.bool)}) == RNN_AND_OUT - 2376


def test_a_table_that_two_readers_of_words_share_is_only_looked_up():
    table = nn.Embedding(100, 16)
    model = nn.ModuleList([Named("encoder", table), Named("decoder", table)])
    assert macs_per_token(model) == 2 * RNN_AND_OUT


def test_characters_are_looked_up_and_their_filters_multiplied():
    assert macs_per_token(CharacterCNN(50, 8, filters=100, width=5)) == 100 * 40


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", ["linear", "mixture"])
def test_strips_count_where_they_decode(tied, head):
    blocks = {"name": "block", "blocks": 2, "density": 0.75}
    model = LanguageModel(50, 12, [12], tied=tied, embedding=blocks, head=head)
    alone = LanguageModel(50, 12, [12], tied=False, head=head)
    strips = sum(p.numel() for n, p in model.embedding.named_parameters() if n.startswith("strip"))
    assert macs_per_token(model) == macs_per_token(alone) - tied * (50 * 12 - strips)


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        parametrizations.spectral_norm,
        lambda layer: prune.identity(layer, "weight"),
    ],
)
def test_a_computed_weight_counts_once(wrap):
    model = nn.Sequential(nn.Linear(7, 5), wrap(nn.Linear(5, 5)))
    assert macs_per_token(model) == 35 + 25


def test_a_mask_on_a_computed_weight_counts():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 5)))
    name = "0.parametrizations.weight.original"
    assert macs_per_token(model, {name: torch.eye(5, dtype=torch.bool)}) == 5


def test_sizes_count_tied_weights_once():
    model = LanguageModel(100, 20, [20], tied=True)
    numbers = 100 * 20 + 2 * 80 * 20 + 2 * 80 + 100
    assert sizes(model.state_dict(), {})["dense_bytes"] == 4 * numbers
    masks = {"embedding.weight": torch.ones(100, 20, dtype=torch.bool)}
    packed = sizes(model.state_dict(), masks)
    assert packed["packed_bytes"] == 4 * numbers + 2000 // 8
    assert packed["packed_int8_bytes"] == 4 * numbers + 2000 // 8 - 3 * 2000 + 4 * 100


def test_vectors_are_written_each_also_where_they_share_memory():
    """As `pack` does, which looks for equal matrices only."""
    flat = torch.arange(6.0)
    assert sizes({"a": flat, "b": flat[:2], "c": flat}, {})["packed_bytes"] == 4 * (6 + 2 + 6)


@pytest.mark.parametrize("name", ["wte.weight", "out.weight"])
def test_a_mask_counts_under_any_name_of_a_tied_weight(name):
    model = Named("wte", nn.Embedding(100, 24), tied=True)
    masks = {name: torch.eye(100, 24, dtype=torch.bool)}
    assert macs_per_token(model, masks) == RNN_AND_OUT - 2400 + 24
    found = [sizes(model.state_dict(), given)["packed_bytes"] for given in ({}, masks)]
    assert found[0] - found[1] == 4 * (2400 - 24) - 300


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
