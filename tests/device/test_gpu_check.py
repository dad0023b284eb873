"""The check for machines with a GPU runs, in small, on one without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsernn

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_has_a_line_for_every_recipe(tmp_path):
    known = {**os.environ, "PYTHONPATH": str(Path(sparsernn.__file__).parents[1])}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "table.md")], env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("cpu; ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:9]]
    for recipe, seconds, share, without, plain, naive, update, away, goal in rows:
        assert float(seconds) > 0, recipe
        assert float(without) > 0
        assert float(plain) > 0
        assert float(share.removesuffix("%")) >= 0
        assert naive == "none" or float(naive) > 0
        assert (update == "none") == (recipe.split("/")[0] != "selfish")
        assert float(away) == 0.0
        assert goal == ""  # they are for full sizes
    products = [line.split("|")[3:6] for line in lines[12:18]]
    assert all(float(cell) > 0 for cells in products for cell in cells)
    ways = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[21:27]]
    assert [way[1] for way in ways] == ["first", "second"] * 3
    for _, _, milliseconds, off, taken in ways:
        assert float(milliseconds) > 0
        assert float(off) < 1e-4
        assert taken == "taken: the only one"  # on a CPU
    assert lines[-1] == "tests of the Triton kernels: left out"
