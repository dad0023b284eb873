"""Plain C on other processors, emulated: every layer's own check on two ARMs, and series told apart on a Cortex-M."""

import csv
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_plain_c import LAYER_SPECS, a_model

import sparsernn as sr
from sparsernn.data.series_corpus import series_of
from sparsernn.data.table_files import read_table
from sparsernn.deploy.plain_c import write_c
from sparsernn.deploy.plain_c.step_program import StepProgram
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.runs.artifacts import export_c, take_best
from sparsernn.runs.assembly import open_weights
from sparsernn.runs.predictions import predict_file
from sparsernn.tasks.series_scaling import Scaling

pytestmark = pytest.mark.slow
DEVICE = Path(__file__).parents[2] / "docs" / "device"
USER = {
    "armhf": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
}
BOARDS = {
    "mps2-an385": ["-mcpu=cortex-m3"],  # no floating-point unit
    "mps2-an386": ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
}
LARGEST_FLASH = 64 * 1024


def need(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


@pytest.mark.parametrize("values", ["float32", "int8", "int4"])
@pytest.mark.parametrize("layer", LAYER_SPECS, ids=str)
@pytest.mark.parametrize("processor", USER)
def test_the_check_of_every_layer_passes_on_arm(tmp_path, processor, layer, values):
    compiler, emulator = USER[processor]
    need(compiler, emulator, "make")
    write_c(a_model(layer, "bits", words=True), tmp_path, values=values)
    flags = [f"CC={compiler}", "CFLAGS=-O2 -static -Werror", f"RUN={emulator}"]
    done = subprocess.run(
        ["make", "-s", "-C", tmp_path, "check", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("equal: 16 steps")
    assert values == "float32" or "largest difference 0, allowed 0" in done.stdout


def labels_on(board, folder, series):
    """The image of `docs/device` with the model of a folder, run on a board: its flash, and labels of the series."""
    need("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
    lines = [
        "".join(" ".join(f"{x:.9g}" for x in row) + "\n" for row in one.tolist()) + "\n" for one in series
    ]
    (folder / "series.txt").write_text("".join(lines))
    compiler = [
        "arm-none-eabi-gcc",
        *BOARDS[board],
        "-mthumb",
        "-std=c99",
        "-Os",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    subprocess.run([*compiler, "-c", "model.c", "-o", "model.o"], cwd=folder, check=True)
    own = [str(DEVICE / name) for name in ("start.c", "label_series.c")]
    linked = ["--specs=rdimon.specs", "-nostartfiles", "-T", str(DEVICE / "mps2.ld")]
    subprocess.run(
        [*compiler, "-I.", *own, "model.o", *linked, "-lm", "-o", "firmware.elf"], cwd=folder, check=True
    )
    emulator = ["qemu-system-arm", "-M", board, "-nographic", "-monitor", "none", "-serial", "none"]
    semihosting = ["-semihosting-config", "enable=on,target=native", "-kernel", "firmware.elf"]
    said = subprocess.run(
        [*emulator, *semihosting], cwd=folder, capture_output=True, text=True, check=True, timeout=300
    )
    size = subprocess.run(
        ["arm-none-eabi-size", "model.o"], cwd=folder, capture_output=True, text=True, check=True
    )
    text, data, _ = map(int, size.stdout.splitlines()[1].split()[:3])
    return text + data, [int(line) for line in said.stdout.split()]


@pytest.mark.parametrize("board", BOARDS)
def test_a_cortex_m_says_the_labels_of_the_twin(tmp_path, board):
    torch.manual_seed(5)
    model = SequenceModel(4, 6, [24]).eval()
    with torch.no_grad():
        model.output.weight.mul_(4)
    scaling = Scaling((0.0,) * 4, (1.0,) * 4)
    write_c(model, tmp_path, values="int8", labels=list("abcdef"), scaling=scaling)
    program = StepProgram(model, "model", values="int8")
    series = [torch.randn(3 + k % 20, 4) for k in range(60)]
    wanted = []
    for one in series:
        state = program.start()
        wanted.append(int(np.argmax([program.twin(state, x) for x in one.numpy()][-1])))
    flash, found = labels_on(board, tmp_path, series)
    assert found == wanted
    assert len(set(wanted)) > 3
    assert program.flash < flash < LARGEST_FLASH


def test_the_page_of_series_runs_on_a_cortex_m(tmp_path):
    """The whole test split, each series labelled as Python labels it in float32."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        pytest.skip("the Japanese vowels come with aeon, which is not installed")
    need("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
    run_folder = tmp_path / "run"
    sr.train("series/vowels-dense", {"threads": 1}, out=run_folder, progress=False)
    run = open_weights(run_folder)
    take_best(run)
    folder = tmp_path / "firmware"
    test_file = Path(spec.origin).parent / "datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts"
    wanted = [row["label"] for row in csv.DictReader(predict_file(run, test_file).splitlines())]
    export_c(run, folder, values="int8")
    labels = (folder / "model_labels.txt").read_text().splitlines()
    reading = run.task.reading
    series = [
        one.values for one in series_of(read_table(test_file, reading.separator), reading, with_targets=False)
    ]
    flash, found = labels_on("mps2-an386", folder, series)
    assert [labels[k] for k in found] == wanted
    assert len(found) == 370
    assert flash < LARGEST_FLASH
