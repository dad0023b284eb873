"""Calibration for 8 bits: rows with an outlier err less, by what they say; nothing else changes."""

import copy

import pytest
import torch
from test_compiled_runtime import LAYER_SPECS, V, made, said

from sparsernn.core.errors import InputError
from sparsernn.deploy import pack, runtime, unpack
from sparsernn.deploy.calibration import calibrate, round_matrices
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger


def with_outliers(layer="lstm", head="linear", tied=False):
    """Every row of every matrix has one weight three times as large as the others."""
    model, _ = made(layer, head, tied, density=1.0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and "map" not in name:
                p.uniform_(-0.3, 0.3)[torch.arange(len(p)), torch.randint(p.shape[1], (len(p),))] = 0.9
    return model.eval()


@pytest.mark.parametrize("layer", LAYER_SPECS)
def test_products_of_every_layer_err_less(layer):
    model = with_outliers(layer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = calibrate(model, torch.randint(V, (20, 4)))
    assert len(done.errors) >= 3
    assert all(after <= first for first, after in done.errors.values())
    assert 0 <= done.cut <= done.rows
    for name, p in model.named_parameters():
        away = (p - before[name]).abs() > 1e-7
        assert p.ndim == 2 or not away.any()
        assert (p.abs() <= before[name].abs() + 1e-7).all(), "weights are cut, and nothing else"


@pytest.mark.parametrize(("head", "tied"), [("mixture", False), ("split", False), ("linear", True)])
def test_heads_are_calibrated_too(head, tied):
    model = with_outliers("gru", head, tied)
    names = set(calibrate(model, torch.randint(V, (12, 2))).errors)
    assert names & {"head.weight", "head.weight:0"}
    assert head != "split" or {"head.weight:1", "head.weight:2", "head.tombstones"} <= names


def test_the_rounded_model_says_more_nearly_what_the_exact_one_says():
    """An input feature that is always 0 has the outliers: to cut them costs nothing, and the levels get finer."""
    model = with_outliers()
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0
        weight = model.get_parameter("layers.0.weight_ih")
        weight.uniform_(-0.3, 0.3)[:, 0] = 0.9
    words = torch.randint(V, (40, 4))
    exact, _ = said(model, words)
    plain = copy.deepcopy(model)
    done = calibrate(model, torch.randint(V, (60, 4)))
    first, after = done.errors["layers.0.weight_ih"]
    assert after < 0.5 * first
    away = []
    for one in (plain, model):
        round_matrices(one)
        away.append((said(one, words)[0] - exact).square().mean().item())
    assert away[1] < away[0]


def test_packed_files_and_the_runtime_have_the_calibrated_range(tmp_path):
    model = with_outliers()
    calibrate(model, torch.randint(V, (20, 4)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = {name: torch.ones_like(t, dtype=torch.bool) for name, t in state.items() if t.ndim == 2}
    ready = runtime(model, products="dense_int8", threads=1)
    pack(state, masks, tmp_path / "m", values="int8")
    unpacked = unpack(tmp_path / "m")
    round_matrices(model)
    for name in ("layers.0.weight_hh", "layers.1.weight_ih", "head.weight"):
        torch.testing.assert_close(
            ready.held[name].restored(), model.get_parameter(name).detach(), rtol=0, atol=1e-7
        )
        torch.testing.assert_close(unpacked[name], model.get_parameter(name).detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("layer", LAYER_SPECS)
def test_models_of_vectors_err_less_too(layer):
    torch.manual_seed(0)
    model = SequenceModel(3, 2, [6, 6], LAYER_SPECS[layer]).eval()
    x = torch.randn(6, 20, 3)  # more than are read at once
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = calibrate(model, x, values="int4")
    assert "output.weight" in done.errors
    assert all(after <= first for first, after in done.errors.values())
    assert all((p.abs() <= before[name].abs() + 1e-7).all() for name, p in model.named_parameters())


def test_what_stands_beyond_a_series_says_nothing():
    torch.manual_seed(0)
    model, x, lengths = (
        SequenceModel(3, 2, [8], "gru").eval(),
        torch.randn(6, 20, 3),
        [1 + k % 6 for k in range(20)],
    )
    other = copy.deepcopy(model)
    junk = x.clone()
    for b, n in enumerate(lengths):
        junk[n:, b] = 1e3
    first = calibrate(model, x, values="int4", lengths=lengths)
    assert first == calibrate(other, junk, values="int4", lengths=torch.tensor(lengths))
    assert first != calibrate(copy.deepcopy(other), junk, values="int4")


def test_what_cannot_be_calibrated_is_refused():
    vectors = SequenceModel(3, 2, [8])
    for x in (
        torch.zeros(4, 2, 2),
        torch.zeros(4, 2),
        torch.full((4, 2, 3), torch.nan),
        torch.zeros(0, 2, 3),
        [1],
    ):
        with pytest.raises(InputError, match="the vectors are"):
            calibrate(vectors, x)
    with pytest.raises(InputError, match="the lengths are"):
        calibrate(vectors, torch.zeros(4, 2, 3), lengths=[4, 5])
    with pytest.raises(InputError, match="like this cannot be calibrated"):
        calibrate(
            LanguageModel(9, 4, [4], embedding={"name": "block", "blocks": 2, "density": 0.75}),
            torch.zeros(3, 2, dtype=torch.int64),
        )
    with pytest.raises(InputError, match="a Tagger like this cannot be calibrated"):
        calibrate(Tagger(9, 3, 4, 5), torch.zeros(3, 2, dtype=torch.int64))
    model = LanguageModel(9, 4, [4])
    for words in (torch.full((2, 2), 9), torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64), [[1]]):
        with pytest.raises(InputError, match="the words are"):
            calibrate(model, words)
