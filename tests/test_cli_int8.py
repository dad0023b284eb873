"""8 and 4 bits from the command line: calibrated on validation data, scored before and after."""

import re

import pytest
import torch

from sparsernn.data import long_text
from sparsernn.deploy import unpack
from sparsernn.deploy.calibration import round_matrices
from sparsernn.deploy.graph_export import ONNX_NEEDS
from sparsernn.numbering import crew
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import open_run
from sparsernn.runs.rounded_scores import calibrate_run
from test_cli import corpus, fault, invoke, recipe, trained  # noqa: F401 - fixtures

SAID = r"test perplexity: ([\d.]+) in float32, ([\d.]+) in [84] bits, ([\d.]+) calibrated on validation data \(\d+ of"


@pytest.mark.parametrize(("values", "most"), [("int8", 0.05), ("int4", 0.3)])
def test_pack_calibrates_and_says_what_rounding_costs(trained, tmp_path, values, most):  # noqa: F811
    target = tmp_path / "m.safetensors"
    output = invoke("pack", trained[0], "--values", values, "--calibrate", "--out", target).output
    exact, rounded, calibrated = map(float, re.search(SAID, " ".join(output.split())).groups())
    assert abs(rounded / exact - 1) < most
    assert abs(calibrated / exact - 1) < most
    run = open_run(trained[0], None, "cpu")
    take_best(run)
    scores = calibrate_run(run, values)
    assert f"{scores.calibrated:.4f}" == f"{calibrated:.4f}"
    round_matrices(run.model, values)
    for name, tensor in unpack(target).items():
        torch.testing.assert_close(tensor, run.model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_text_that_is_mapped_calibrates_as_one_in_memory(trained, tmp_path, monkeypatch):  # noqa: F811
    def scores():
        run = open_run(trained[0], None, "cpu")
        take_best(run)
        return run.task.corpus.splits["valid"].dtype, calibrate_run(run)

    kind, in_memory = scores()
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(long_text, "LONG", 0)
    monkeypatch.setattr(crew, "cores", lambda: 0)
    mapped_kind, mapped = scores()
    assert (kind, mapped_kind) == (torch.int64, torch.uint16)
    assert mapped == in_memory


@pytest.mark.parametrize("values", ["--int8", "--int4"])
def test_export_to_c_calibrates(trained, tmp_path, values):  # noqa: F811
    output = invoke(
        "export", trained[0], "--format", "c", values, "--calibrate", "--out", tmp_path / "c"
    ).output
    assert f"Rounding to {values[-1]} bits" in output
    assert re.search(SAID, " ".join(output.split())), output
    assert (tmp_path / "c" / "model.c").exists()


def test_calibration_is_for_few_bits_and_needs_the_data(trained, tmp_path):  # noqa: F811
    assert "--calibrate is for --values int8" in fault("pack", trained[0], "--calibrate")
    assert "--calibrate is for --int8" in fault("export", trained[0], "--format", "c", "--calibrate")
    assert "--data" in fault("pack", trained[0], "--values", "int8", "--calibrate", "--data", tmp_path)


@pytest.mark.parametrize(
    ("values", "most", "more"),
    [("--int8", 0.05, ()), ("--int4", 0.3, ()), ("--int8", 0.05, ("--graph", "sequence"))],
)
def test_export_to_onnx_in_few_bits_scores_before_and_after(trained, tmp_path, values, most, more):  # noqa: F811
    for name in ONNX_NEEDS["sequence"]:
        pytest.importorskip(name)
    output = " ".join(
        invoke(
            "export", trained[0], values, *more, "--out", tmp_path / "m.onnx", "--opset", "17"
        ).output.split()
    )
    before, after = map(
        float,
        re.search(
            r"validation data: ([\d.]+) with weights of 32 bits, ([\d.]+) in this file", output
        ).groups(),
    )
    assert abs(after / before - 1) < most
    assert re.search(r"times (smaller|larger) than in float32", output)
