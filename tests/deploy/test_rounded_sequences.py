"""ONNX graphs of whole sequences in 8 bits: every layer, head and table against the model, by other lengths."""

import json

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.deploy.calibration import round_matrices
from sparsernn.deploy.graph_export import ONNX_NEEDS, OneStep, export, run_onnx
from sparsernn.deploy.graphs.whole_sequence import whole_sequence
from sparsernn.deploy.rounded_graph import export_rounded_sequences, perplexity, perplexity_of_sequences
from sparsernn.deploy.runtime import runtime
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import LAYERS

SPECIAL = {"onlstm": {"chunk_size": 4}, "rhn": {"depth": 3}}
ROUGH = 0.06  # weights and inputs rounded, of scores of about 5; seen: 0.026


@pytest.fixture(autouse=True)
def _packages():
    for name in ONNX_NEEDS["sequence"]:
        pytest.importorskip(name)
    torch.manual_seed(0)


def near_its_rounded_twin(model, path, steps=9, batch=3):
    """Weights are those of `round_matrices`, so that the rest is what rounding inputs does."""
    done = export_rounded_sequences(model, path)
    exact = whole_sequence(model.eval())
    inputs = exact.sample(steps, batch)
    found = run_onnx(path)(dict(zip((one.name for one in exact.inputs), inputs, strict=True)))
    with torch.no_grad():
        round_matrices(model)
        assert exact.difference(inputs, found) < ROUGH
    return done


@pytest.mark.parametrize("layer", list(LAYERS))
def test_every_layer(tmp_path, layer):
    made = LanguageModel(60, 20, [24, 20], layer={"name": layer, **SPECIAL.get(layer, {})})
    done = near_its_rounded_twin(made, tmp_path / "m.onnx")
    assert 0 < done.difference < 2 * ROUGH
    assert done.inputs["words"] == ("T", "B")


@pytest.mark.parametrize(
    "more",
    [
        {"tied": True},
        {"head": "mixture"},
        {"head": {"name": "split", "splits": [9, 20]}, "tied": True},
        {"embedding": {"name": "block", "blocks": 4}},
    ],
    ids=str,
)
def test_heads_and_tables(tmp_path, more):
    done = export_rounded_sequences(LanguageModel(60, 24, [24], **more), tmp_path / "m.onnx")
    assert 0 < done.difference < 2 * ROUGH


def test_other_models(tmp_path):
    torch.manual_seed(1)
    for model in (Tagger(40, 17, embedding_size=16, hidden_size=32), SequenceModel(5, 3, [20], layer="gru")):
        assert 0 < export_rounded_sequences(model, tmp_path / "m.onnx").difference < 2 * ROUGH


def test_it_is_smaller_and_says_what_it_is(tmp_path):
    model = LanguageModel(400, 64, [64], layer="lstm", tied=True)
    done = export_rounded_sequences(model, tmp_path / "m.onnx", {"name": "a name"})
    whole = export(model, tmp_path / "f.onnx", graph="sequence")
    assert done.bytes < 0.4 * whole.bytes
    import onnxruntime

    told = onnxruntime.InferenceSession(done.path).get_modelmeta().custom_metadata_map
    assert json.loads(told["weights"]) == "int8"
    assert json.loads(told["graph"]) == "sequence"
    assert json.loads(told["name"]) == "a name"


def test_perplexity_goes_on_from_part_to_part(tmp_path):
    model = LanguageModel(30, 16, [16]).eval()
    words = torch.randint(30, (120, 2))
    path = export(model, tmp_path / "m.onnx", graph="sequence").path
    found = perplexity_of_sequences(path, OneStep(model).start(2), words)
    assert found == pytest.approx(perplexity(runtime(model, products="dense").stream(2), words), rel=1e-5)


def test_another_ending_or_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        export_rounded_sequences(LanguageModel(20, 8, [8]), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="opset"):
        export_rounded_sequences(LanguageModel(20, 8, [8]), tmp_path / "m.onnx", opset=12)
    assert not list(tmp_path.iterdir())
