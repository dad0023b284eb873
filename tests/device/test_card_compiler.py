"""The Triton kernels are what cards of 2020 and 2022 can run, as far as their compiler knows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparsernn
from sparsernn.kernels import triton_language

PROGRAM = Path(__file__).with_name("card_compiler.py")


@pytest.mark.skipif(not triton_language.installed(), reason="no Triton here")
@pytest.mark.parametrize("words", [["H100", "float32"], pytest.param([], marks=pytest.mark.slow)])
def test_every_kernel_compiles_for_cards(words):
    known = {**os.environ, "PYTHONPATH": str(Path(sparsernn.__file__).parents[1]), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, str(PROGRAM), *words], env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    written = "".join(
        path.read_text("utf-8") for path in Path(triton_language.__file__).parent.glob("*_triton.py")
    )
    assert names == set(re.findall(r"(?:_each\(|^    )(_\w+)(?:, |\.launch\()", written, re.M))
