"""Graphs of one step: every layer, head and map, in another batch size than the traced one."""

import json

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.deploy.graph_export import FORMATS, OneStep, export
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import HEADS, LAYERS, TIED_HEADS
from sparsernn.nn.maps import MAPS

SPECIAL = {"onlstm": {"chunk_size": 4}, "rhn": {"depth": 3}}
FORMS = [{"name": "qrnn", "window": 2}] + [
    {"name": "elman", "map": name, "nonlinearity": "modrelu"} for name in MAPS
]
LAYER_SPECS = [{"name": name, **SPECIAL.get(name, {})} for name in LAYERS] + [
    pytest.param(form, marks=pytest.mark.slow) for form in FORMS
]
CLOSE = 2e-6  # float32 in another order of operations


@pytest.mark.parametrize("layer", LAYER_SPECS, ids=str)
def test_every_layer_reads_on_from_its_own_state(tmp_path, layer):
    torch.manual_seed(0)
    model = LanguageModel(20, 8, [8], layer=layer)
    done = export(model, tmp_path / "m.pt2")
    assert done.difference < CLOSE
    assert done.bytes == done.path.stat().st_size
    assert done.inputs["words"] == ("B",)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(tmp_path, head):
    assert export(LanguageModel(20, 8, [8], head=head), tmp_path / "m.pt2").difference < CLOSE


@pytest.mark.parametrize("head", TIED_HEADS["block"])
def test_strips_are_looked_up_and_decoded_with(tmp_path, head):
    torch.manual_seed(0)
    model = LanguageModel(20, 8, [8], head=head, embedding={"name": "block", "blocks": 4}, tied=True)
    assert export(model, tmp_path / "m.pt2").difference < CLOSE


def test_the_steps_of_the_file_are_the_window_of_the_model(tmp_path):
    torch.manual_seed(1)
    model = LanguageModel(20, 6, [7, 5], dropout={"output": 0.5}).eval()
    export(model, tmp_path / "m.pt2")
    words = torch.randint(20, (9, 1))
    wanted = model.head.log_prob(model(words).raw)
    extra = {"start": ""}
    step = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    begin = json.loads(extra["start"])
    state = [torch.tensor([values]) for values in begin.values()]
    for row, want in zip(words, wanted, strict=True):
        log_prob, *state = step(row, *state)
        torch.testing.assert_close(log_prob, want)
    assert list(begin) == ["state.0", "state.1", "state.2", "state.3"]


def test_a_learnt_start_is_in_the_file(tmp_path):
    model = SequenceModel(3, 2, [4], layer={"name": "rhn", "depth": 2, "learn_initial_state": True})
    with torch.no_grad():
        model.layers.members[0].start[0].copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert export(model, tmp_path / "m.pt2").difference < CLOSE
    extra = {"start": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(extra["start"])["state.0"] == [1, 2, 3, 4]


def test_maps_are_frozen_into_matrices_of_the_copy_only():
    model = SequenceModel(3, 2, [6], layer={"name": "elman", "map": "orthogonal"})
    names = set(dict(model.named_parameters()))
    step = OneStep(model)
    assert set(dict(model.named_parameters())) == names
    x = torch.randn(2, 3)
    torch.testing.assert_close(step(x, *step.start(2))[0], model.read_out(model(x.unsqueeze(0)).raw[0]))


def test_models_without_a_single_step_are_refused(tmp_path):
    with pytest.raises(InputError, match="Tagger reads whole sequences"):
        export(Tagger(9, 3, 4, 5), tmp_path / "m.pt2")
    backwards = LanguageModel(9, 4, [4], layer={"name": "qrnn", "reverse": True})
    with pytest.raises(InputError, match="reads backwards, so it cannot be exported as one step"):
        export(backwards, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'m.tflite' does not end in one of .onnx, .pt2"):
        export(LanguageModel(9, 4, [4]), tmp_path / "m.tflite")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsernn.deploy.graph_export.ONNX_NEEDS", {"step": ("no_such_package",)})
    with pytest.raises(InputError, match=r"needs no_such_package: pip install 'sparsernn\[onnx\]'"):
        export(LanguageModel(9, 4, [4]), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "layer", ["lstm", {"name": "elman", "map": "normal"}, {"name": "qrnn", "window": 2}], ids=str
)
def test_onnx(tmp_path, layer):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    done = export(LanguageModel(20, 8, [8], layer=layer), tmp_path / "m.onnx")
    assert done.difference < CLOSE
    graph = onnx.load(done.path)
    assert [i.name for i in graph.graph.input] == list(done.inputs)
    assert "start" in {p.key for p in graph.metadata_props}
    assert set(FORMATS) == {".onnx", ".pt2"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_types_are_written_as_onnxruntime_takes_them(tmp_path, dtype):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = LanguageModel(9, 4, [6]).to(dtype)
    done = export(model, tmp_path / "model.onnx")
    assert done.difference < 1e-6
    assert next(model.parameters()).dtype == dtype
