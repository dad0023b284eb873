"""The model of every task of the registry, as a graph of whole sequences."""

import pytest
from test_every_task import model_for, tiny

from sparsernn.deploy.graph_export import export
from sparsernn.tasks import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_the_model_of_every_task_leaves_as_a_graph(tmp_path, name):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    done = export(model_for(tiny(name)), tmp_path / "m.onnx", graph="sequence")
    assert done.difference < 1e-5
    assert any("T" in shape for shape in done.inputs.values())
    assert all("B" in shape for shape in (*done.inputs.values(), *done.outputs.values()))
