"""The suite on every level of instructions that this machine offers, one after the other: `make test-levels`.

No test may depend on how one processor rounds. A level limits the compiled kernels and, as far as they listen,
torch's own loops, oneDNN and MKL, so that sums are taken in another order. Words on the command line go to pytest.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import torch

WIDTHS = {
    "plain": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512"},
}
NAMES = ("DEFAULT", "AVX2", "AVX512")
"""What torch calls them, in the same order."""


def offered() -> dict[str, Mapping[str, str]]:
    """Level -> its environment: as found on two threads, twins only, and each width that this machine has."""
    found = torch.backends.cpu.get_cpu_capability()
    widths = list(WIDTHS)[: NAMES.index(found) + 1 if found in NAMES else 1]
    return {
        "two threads": {"OMP_NUM_THREADS": "2"},
        "no kernels": {"SPARSERNN_NO_KERNELS": "1"},
        **{name: {"SPARSERNN_KERNELS": name, **WIDTHS[name]} for name in widths},
    }


def run(level: str, environment: Mapping[str, str], words: Sequence[str]) -> bool:
    """Whether pytest ended well on a level."""
    print(f"\n{level}: {' '.join('='.join(pair) for pair in environment.items())}", flush=True)
    began = time.monotonic()
    inherited = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    code = subprocess.run([sys.executable, "-m", "pytest", *words], env=inherited).returncode
    print(f"{level}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    passed = {level: run(level, environment, sys.argv[1:]) for level, environment in offered().items()}
    print("\n" + "\n".join(f"{level:12} {'passed' if well else 'FAILED'}" for level, well in passed.items()))
    sys.exit(not all(passed.values()))
