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
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert len(rows) == 5
    for recipe, seconds, share, plain, naive, away in rows:
        assert float(seconds) > 0, recipe
        assert float(plain) > 0
        assert share == "not known"
        assert naive == "none" or float(naive) > 0
        assert float(away) == 0.0
