"""Compiles the native kernels: ``python -m sparsernn.kernels.build``.

Standard library only, because ``setup.py`` loads this file by its path while the package is being built. One
shared library is made per vector width (plain, AVX2, AVX-512 on x86; plain elsewhere) and the loader takes
the widest that the running machine has: the machine that builds may be another one. No compiler is no
error: nothing is made, one line says so, and the pure-torch twins do the work.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCES = (
    *("sparse.c", "steps.c", "recurrence.c", "window.c", "product.c"),
    *("forget.c", "softmax.c", "lasso.c", "lstm.c", "strips.c", "sparse_blocks.c", "sparse_singles.c"),
)
COMMON = (
    *("-O3", "-fPIC", "-shared", "-std=gnu11", "-fvisibility=hidden"),
    # -Wno-psabi: vectors are passed between static functions only; how concerns nobody else
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx2",
        "-mfma",
        "-mprefer-vector-width=512",
    ),
}


def library_name(variant: str) -> str:
    """File name of one variant's shared library, e.g. ``_sparse_avx2.so``."""
    return f"_sparse_{variant}.so"


def variants() -> list[str]:
    """Names of the vector widths that are worth compiling for this kind of processor."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return list(VARIANTS) if x86 else ["plain"]


def find_compiler() -> list[str] | None:
    """The C compiler as a command: ``$CC``, Python's own, gcc, clang or cc, the first there is, else None."""
    wishes = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "gcc", "clang", "cc"]
    for wish in wishes:
        command = shlex.split(wish or "")
        if command and shutil.which(command[0]):
            return command
    return None


def _compile(compiler: list[str], variant: str, target: Path, source: Path) -> str | None:
    """Builds one library, with OpenMP if that works, else without; returns None or the complaint."""
    complaint = None
    for threads in (("-fopenmp",), ()):
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / library_name(variant)
            flags = [*COMMON, *VARIANTS[variant], *threads]
            command = [*compiler, *flags, *(str(source / name) for name in SOURCES), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                _install(made, target / made.name)
                return None
            complaint = complaint or done.stderr.strip()
    return complaint


def _install(made: Path, place: Path) -> None:
    """Moves the new library into place in one step: a process that has the old one open keeps it whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"{place.name}.{os.getpid()}.new")
    shutil.copyfile(made, beside)
    os.replace(beside, place)


def build(target: Path | None = None, source: Path | None = None) -> list[Path]:
    """Compiles every variant that the compiler accepts.

    Args:
        target: folder for the libraries; default: the folder of this file.
        source: folder of the C files; default: the folder of this file.

    Returns:
        The libraries made; empty when there is no compiler. Nothing is raised: the kernels are optional.
    """
    here = Path(__file__).resolve().parent
    target, source = target or here, source or here
    compiler = find_compiler()
    if compiler is None:
        print("sparsernn kernels: no C compiler found; the pure-torch twins will be used")
        return []
    made = []
    for variant in variants():
        complaint = _compile(compiler, variant, target, source)
        if complaint is None:
            made.append(target / library_name(variant))
        else:
            print(f"sparsernn kernels: {variant} not compiled: {(complaint.splitlines() or ['?'])[0]}")
    return made


def main() -> int:
    """Builds in place and lists what was made; exit status 1 when nothing was."""
    made = build()
    for path in made:
        print(f"sparsernn kernels: made {path.name}")
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
