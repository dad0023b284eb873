"""The exported graph as one of the runtimes of a comparison; needs onnxruntime."""

import pytest
import torch

from sparsernn.core import packages
from sparsernn.core.errors import InputError
from sparsernn.deploy import compare, gain
from sparsernn.deploy.graph_export import ONNX_NEEDS, export
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.models.language_model import LanguageModel


@pytest.fixture
def graph(tmp_path):
    for name in ONNX_NEEDS["step"]:
        pytest.importorskip(name)
    torch.manual_seed(0)
    model = LanguageModel(30, 8, [10, 9], layer="gru").eval()
    return model, export(model, tmp_path / "model.onnx").path


def test_it_reads_as_the_model_does(graph):
    model, path = graph
    words = torch.randint(30, (6, 3))
    stream = OnnxRuntime(path).stream(3)
    with torch.no_grad():
        wanted = model.head.log_prob(model(words).raw)
    torch.testing.assert_close(stream.read(words), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="ids from 0 to 29"):
        stream.step([30, 0, 0])


def test_it_takes_part_in_a_comparison(graph):
    model, path = graph
    rows = compare(model, threads=1, repeats=1, onnx=OnnxRuntime(path))
    assert [row["runtime"] for row in rows][-1] == "onnxruntime"
    assert all(row["spread_ms"][0] <= row["ms_per_token"] <= row["spread_ms"][1] for row in rows)
    assert gain(rows).startswith("batch 1: ")


def test_without_onnxruntime_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda package: False)
    with pytest.raises(
        InputError, match=r"an ONNX graph needs onnxruntime: pip install 'sparsernn\[onnx\]'\."
    ):
        OnnxRuntime(tmp_path / "model.onnx")


@pytest.mark.parametrize("what", ["free width", "no width"])
def test_a_graph_of_another_program_is_one_sentence(what, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    whole, number, helper = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.helper
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=number)]
    nodes.append(
        helper.make_node("Identity", ["c"], ["y"])
        if what == "free width"
        else helper.make_node("ReduceSum", ["c"], ["y"], keepdims=0)
    )
    shape = ["B"] if what == "free width" else []
    given = [helper.make_tensor_value_info("x", whole, ["B"])]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("y", number, shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, str(tmp_path / "f.onnx"))
    with pytest.raises(InputError, match="is no graph of a language model"):
        OnnxRuntime(tmp_path / "f.onnx")
