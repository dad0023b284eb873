"""What a firmware calls between numbers in their own units and a model's: the same as training's scaling."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch
from test_plain_c import CC, check, compiled

from sparsernn.deploy.plain_c import write_c
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.series_scaling import Scaling

MEAN, STD = (3.5, -1200.0, 1e-4), (0.25, 37.5, 2e-5)


def library(folder):
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([CC, *flags, "-o", folder / "net.so", folder / "net.c", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "net.so"))


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


@compiled
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_samples_are_scaled_as_in_training(tmp_path, masked):
    scaling = Scaling(MEAN, STD, (0.0, 1.0), masked)
    done = write_c(
        SequenceModel(scaling.inputs, 2, [4]), tmp_path, name="net", scaling=scaling, labels=["a", "\n"]
    )
    found = library(tmp_path)
    raw = np.array([[4.0, -1150.0, 9e-5], [3.0, np.nan if masked else 0.0, 1.5e-4]], np.float32)
    x = np.full((2, scaling.inputs), 9, np.float32)
    for row, out in zip(raw, x, strict=True):
        found.net_scale(pointer(row), pointer(out))
    np.testing.assert_allclose(x, scaling.read(raw.astype(np.float64)).numpy(), rtol=1e-5, atol=1e-5)
    assert not hasattr(found, "net_unscale")
    assert (tmp_path / "net_labels.txt").read_text() == "a\n\\n\n"
    assert done.files[-1] == "net_labels.txt"


@compiled
def test_an_answer_that_is_a_number_gets_its_unit_back(tmp_path):
    scaling = Scaling(MEAN, STD, (12.5, 3.0))
    write_c(SequenceModel(3, 1, [4]), tmp_path, name="net", values="int8", scaling=scaling)
    found = library(tmp_path).net_unscale
    found.restype, found.argtypes = ctypes.c_float, [ctypes.c_float]
    assert found(0.5) == float(scaling.unscaled(torch.tensor([0.5]))[0]) == 14.0


@compiled
def test_the_tables_of_units_count(tmp_path):
    model = SequenceModel(3, 1, [4])
    bare, whole = (
        write_c(model, tmp_path / "a"),
        write_c(model, tmp_path / "b", scaling=Scaling(MEAN, STD, (1.0, 2.0))),
    )
    assert whole.flash - bare.flash == 2 * 3 * 4
    assert check(tmp_path / "b") == (0, check(tmp_path / "b")[1])
