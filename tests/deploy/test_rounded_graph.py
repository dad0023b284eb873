"""ONNX graphs in 8 bits: every layer and head against the model of rounded weights."""

import json

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.deploy.calibration import round_matrices
from sparsernn.deploy.graph_export import ONNX_NEEDS, OneStep
from sparsernn.deploy.graphs import onnx_steps
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.rounded_graph import export_rounded, perplexity
from sparsernn.deploy.runtime import runtime
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import LAYERS

SPECIAL = {"onlstm": {"chunk_size": 4}, "rhn": {"depth": 3}}
LAYER_SPECS = [
    *({"name": name, **SPECIAL.get(name, {})} for name in LAYERS),
    {"name": "rhn", "depth": 2, "coupled": False},
    *({"name": "qrnn", "window": window, "pooling": pool} for window, pool in ((2, "f"), (1, "ifo"))),
    {"name": "elman", "map": "orthogonal", "nonlinearity": "modrelu"},
]
HEAD_SPECS = [
    "linear",
    "mixture",
    {"name": "mixture", "experts": 3, "floor": 1e-6},
    {"name": "split", "splits": [9, 20]},
]
CLOSE = 2e-5  # float32 in another order of operations
ROUGH = 0.03  # inputs rounded to 127 levels as well; seen: 0.012


@pytest.fixture(autouse=True)
def _packages():
    for name in ONNX_NEEDS["sequence"]:
        pytest.importorskip(name)
    torch.manual_seed(0)


@pytest.fixture
def exact_inputs(monkeypatch):
    monkeypatch.setattr(onnx_steps, "ROUNDED_INPUTS", 1)  # products in float32, of weights in 8 bits


@pytest.mark.parametrize(
    ("layer", "values"),
    [*((layer, "int8") for layer in LAYER_SPECS), *((layer, "int4") for layer in LAYER_SPECS[::3])],
    ids=str,
)
def test_every_layer_is_the_twin_of_rounded_weights(tmp_path, exact_inputs, layer, values):
    done = export_rounded(LanguageModel(30, 12, [72, 16], layer=layer), tmp_path / "m.onnx", values=values)
    assert done.difference < CLOSE
    assert done.inputs["words"] == ("B",)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", HEAD_SPECS, ids=str)
def test_every_head(tmp_path, exact_inputs, head, tied):
    assert (
        export_rounded(LanguageModel(30, 16, [16], head=head, tied=tied), tmp_path / "m.onnx").difference
        < CLOSE
    )


@pytest.mark.parametrize(
    ("width", "values"), [(40, "int8"), (onnx_steps.WIDE_FROM + 8, "int8"), (130, "int4")]
)
def test_rounded_inputs_move_scores_a_little(tmp_path, width, values):
    """No width fills its last block."""
    model = LanguageModel(30, width, [24], layer="gru")
    assert 0 < export_rounded(model, tmp_path / "m.onnx", values=values).difference < ROUGH


@pytest.mark.parametrize("opset", [13, 23])
def test_other_versions_of_the_operators(tmp_path, exact_inputs, opset):
    for layer in ("lstm", {"name": "onlstm", "chunk_size": 4}):
        done = export_rounded(
            LanguageModel(30, 8, [8], layer=layer, head="mixture"), tmp_path / "m.onnx", opset=opset
        )
        assert done.difference < CLOSE


@pytest.mark.parametrize("tied", [False, True])
def test_words_of_4_bits(tmp_path, exact_inputs, tied):
    head = {"name": "split", "splits": [9, 20]}
    made = LanguageModel(31, 70, [70], head=head, tied=tied)
    assert export_rounded(made, tmp_path / "m.onnx", values="int4").difference < CLOSE


def test_tied_weights_are_there_once_and_in_8_bits(tmp_path):
    tied, untied = (
        export_rounded(LanguageModel(1000, 64, [64], tied=tied), tmp_path / f"{tied}.onnx").bytes
        for tied in (True, False)
    )
    assert 64_000 < untied - tied < 80_000
    assert tied < 64_000 * 1.2 + 4 * 64 * 64 * 2 * 1.2 + 16_000


def test_it_reads_on_as_the_8_bit_runtime_does_and_says_what_a_program_needs(tmp_path):
    model = LanguageModel(50, 32, [48], layer="gru").eval()
    path = export_rounded(model, tmp_path / "m.onnx", {"name": "a name"}).path
    ready = OnnxRuntime(path)
    told = ready.session.get_modelmeta().custom_metadata_map
    assert json.loads(told["name"]) == "a name"
    assert json.loads(told["start"]) == {"state.0": [0.0] * 48}
    words = torch.randint(50, (12, 3))
    ours = runtime(model, products="dense_int8", threads=1).stream(3).read(words).log_softmax(-1)
    assert float((ready.stream(3).read(words) - ours).abs().max()) < ROUGH


def test_a_learnt_start_is_in_the_file(tmp_path):
    model = LanguageModel(20, 8, [8], layer={"name": "elman", "learn_initial_state": True}).eval()
    with torch.no_grad():
        for parameter in model.layers[0].start:
            parameter.copy_(torch.arange(8.0))
    path = export_rounded(model, tmp_path / "m.onnx").path
    start = json.loads(OnnxRuntime(path).session.get_modelmeta().custom_metadata_map["start"])
    assert start == {"state.0": OneStep(model).start(1)[0][0].tolist()}


def test_perplexity_is_the_models(tmp_path):
    model = LanguageModel(20, 8, [8]).eval()
    words = torch.randint(20, (9, 2))
    with torch.no_grad():
        log_prob = model.head.log_prob(model(words[:-1]).raw)
    wanted = (-log_prob.gather(-1, words[1:].unsqueeze(-1)).mean()).exp()
    assert perplexity(runtime(model).stream(2), words) == pytest.approx(float(wanted), rel=1e-4)
    stream = OnnxRuntime(export_rounded(model, tmp_path / "m.onnx").path).stream(2)
    round_matrices(model)
    assert perplexity(stream, words) == pytest.approx(perplexity(runtime(model).stream(2), words), rel=1e-2)


def test_what_has_no_such_graph_is_refused(tmp_path):
    for model in (
        Tagger(20, 3, embedding_size=8, hidden_size=8),
        LanguageModel(20, 8, [8], embedding={"name": "block", "blocks": 4}),
    ):
        with pytest.raises(InputError, match="has no graph in 8 bits"):
            export_rounded(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        export_rounded(LanguageModel(20, 8, [8]), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="opset"):
        export_rounded(LanguageModel(20, 8, [8]), tmp_path / "m.onnx", opset=12)
    assert not list(tmp_path.iterdir())
