"""The check for machines with a GPU runs, in small, on one without: on the CPU, and on a pretended card."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretended_cuda import pretended
from torch.utils._python_dispatch import _disable_current_modes

import sparsernn
from sparsernn.kernels import triton_language

ROOT = Path(__file__).parents[2]


def rows(lines):
    """The cells of a table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def check(lines, devices, ways):
    """A line for every recipe, product and way through a window, all with sensible figures in them."""
    assert lines[0].startswith(devices)
    for recipe, seconds, graphs, share, without, plain, naive, update, away, goal in rows(lines[4:9]):
        assert float(seconds) > 0, recipe
        assert float(without) > 0
        assert float(plain) > 0
        assert float(share.removesuffix("%")) >= 0
        assert naive == "none" or float(naive) > 0
        assert (graphs == "none") == (naive == "none" or devices == "cpu; ")
        assert graphs == "none" or float(graphs) > 0
        assert (update == "none") == (recipe.split("/")[0] != "selfish")
        assert float(away) < 1e-4
        assert ("100 epochs in" in goal) == (recipe == "selfish/lstm-ptb")
        assert ("times the naive loop (goal: 20)" in goal) == (naive != "none")
    assert all(float(cell) > 0 for row in rows(lines[12:18]) for cell in row[2:5])
    found = rows(lines[21 : 21 + 4 * len(ways)])
    assert [way[1] for way in found] == ways * 4
    for _, _, milliseconds, off, _ in found:
        assert float(milliseconds) > 0
        assert float(off) < 1e-4
    assert "tests collected" in lines[-1]  # the others are not meant
    assert "FAILED" not in "".join(lines)
    assert len(lines) == 23 + 4 * len(ways)


@pytest.mark.slow
def test_the_table_has_a_line_for_every_recipe(tmp_path):
    known = {**os.environ, "PYTHONPATH": str(Path(sparsernn.__file__).parents[1])}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "table.md")], env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    check(lines, "cpu; ", ["first", "second"])
    assert all(row[4] == "taken: the only one" for row in rows(lines[21:29]))  # on a CPU


@pytest.mark.slow
@pytest.mark.skipif(
    not triton_language.installed() or torch.cuda.is_available(), reason="only where Triton is interpreted"
)
def test_what_only_a_card_is_asked_is_asked_of_a_pretended_one(tmp_path, monkeypatch):
    """With the loop itself in place of a graph of it, and what is worked out on the CPU out of the device's sight."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_check

    outcome, timed, graphs = gpu_check.outcome, gpu_check.timed, []

    def apart(layer, x):
        if x.is_cuda:
            return outcome(layer, x)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return outcome(layer, x)

    monkeypatch.setattr(gpu_check, "outcome", apart)
    monkeypatch.setattr(
        gpu_check, "timed", lambda work, device: timed(work, device, 1)
    )  # the interpreter is slow
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda loop, samples: graphs.append(1) or loop)
    monkeypatch.setattr(
        sys, "argv", ["gpu_check.py", "--device", "cuda", "--tiny", "--out", str(tmp_path / "table.md")]
    )
    with pretended(triton=True):
        gpu_check.main()
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    check(lines, "cuda:0 (a pretended device); ", ["first", "second", "captured"])
    assert len(graphs) >= 6  # two recipes, and four windows
