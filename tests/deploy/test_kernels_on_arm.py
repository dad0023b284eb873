"""The kernels on ARM: compiled without a warning; products of sparse weights are right on an emulated processor."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sparsernn.kernels import build

KERNELS, HERE = Path(build.__file__).parent, Path(__file__).parent
STRICT = ("-Wall", "-Wextra", "-Werror")
COMPILERS = {
    "64 bits": ["aarch64-linux-gnu-gcc"],
    "32 bits, NEON": ["arm-linux-gnueabihf-gcc", "-mfpu=neon"],
    "32 bits": ["arm-linux-gnueabihf-gcc", "-mfpu=vfpv3-d16"],
}
EMULATOR, SYSTEM = "qemu-aarch64", "/usr/aarch64-linux-gnu"

pytestmark = pytest.mark.slow


def need(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def compiled(command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", COMPILERS)
def test_every_file_compiles_without_a_warning(kind, tmp_path):
    compiler = COMPILERS[kind]
    need(compiler[0])
    flags = [flag for flag in build.COMMON if flag != "-shared"]
    for name in build.SOURCES:
        compiled([*compiler, *flags, *STRICT, "-fopenmp", "-c", KERNELS / name, "-o", tmp_path / "made.o"])


@pytest.mark.parametrize("native", [True, False])
def test_products_of_sparse_weights_are_plain_loops(native, tmp_path):
    compiler = build.find_compiler() if native else COMPILERS["64 bits"]
    if compiler is None:
        pytest.skip("there is no C compiler")
    for tool in (compiler[0], *(() if native else (EMULATOR,))):
        need(tool)
    flags = [flag for flag in build.COMMON if flag not in ("-shared", "-fvisibility=hidden")]
    sources = [HERE / "products_check.c", *(KERNELS / f"sparse_{form}.c" for form in ("blocks", "singles"))]
    strict = [*STRICT, "-Wno-unused-function"]  # the check needs a part of what tiles.h has
    compiled([*compiler, *flags, *strict, f"-I{KERNELS}", *sources, "-o", tmp_path / "check", "-lm"])
    run = [tmp_path / "check"] if native else [EMULATOR, "-L", SYSTEM, tmp_path / "check"]
    done = subprocess.run([*map(str, run)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "96 cases\n"
