"""Finds and loads the compiled library that suits this machine."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import torch

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.forms import form_of
from sparsernn.core.limits import Between, OneOf

INTERFACE = 16
"""Must equal sparsernn_interface() in sparse.c: signatures and structures agree."""

NEEDS = {"plain": "", "avx2": "AVX2", "avx512": "AVX512"}
"""Vector widths, the widest last, and torch's word for processors that have the instructions.

torch says AVX2 where there is FMA too, and AVX512 for the subsets F, BW, VL and DQ: what build.py asks for.
"""

MOST_THREADS = 1024
"""Threads that a call may ask for."""

NOT_BUILT = "not compiled; python -m sparsernn.kernels.build does it"

POINTER, INT, LONG, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
SIGNATURES: dict[str, list[type]] = {
    "multiply": [POINTER, POINTER, POINTER, INT, POINTER, INT],
    "steps": [POINTER, POINTER],
    "highway_forward": [*[POINTER] * 3, INT, INT, INT],
    "highway_backward": [*[POINTER] * 5, INT, INT, INT],
    "ordered_forward": [*[POINTER] * 5, INT, INT, INT, INT],
    "ordered_backward": [*[POINTER] * 7, INT, INT, INT, INT],
    "window_forward": [*[POINTER] * 4, INT],
    "window_backward": [*[POINTER] * 5, INT],
    "product": [*[POINTER] * 4, *[INT] * 5],
    "lstm_forward": [POINTER, INT],
    "lstm_backward": [POINTER, INT],
    "strips_lookup": [*[POINTER] * 3, INT, INT],
    "strips_add": [*[POINTER] * 3, INT, INT],
    "strips_scores": [*[POINTER] * 6, INT, INT],
    "transpose": [POINTER, POINTER, INT, INT, INT],
    "forget_forward": [*[POINTER] * 4, LONG, LONG, INT, INT],
    "forget_backward": [*[POINTER] * 8, LONG, LONG, INT, INT],
    "squares": [*[POINTER] * 3, INT, INT, INT],
    "add_scaled": [*[POINTER] * 4, INT, INT, INT],
    "add_signs": [POINTER, POINTER, FLOAT, LONG, INT],
    "threshold": [POINTER, FLOAT, LONG, INT],
    "softmax": [*[POINTER] * 5, LONG, LONG, INT, INT, INT],
    "gates_forward": [*[POINTER] * 4, INT, INT, INT],
    "gates_backward": [*[POINTER] * 6, INT, INT, INT],
    "blocks_forward": [*[POINTER] * 5, INT, INT, INT],
    "blocks_back": [*[POINTER] * 5, INT, INT, INT],
    "blocks_gradient": [*[POINTER] * 5, INT, INT],
    "blocks_take": [*[POINTER] * 3, INT],
    "blocks_put": [*[POINTER] * 3, INT],
    "singles_forward": [*[POINTER] * 5, INT, INT, INT],
    "singles_gradient": [*[POINTER] * 5, INT, INT],
    "singles_take": [*[POINTER] * 3, LONG, INT],
    "singles_put": [*[POINTER] * 3, LONG, LONG, INT],
}

OPENMP_RUNTIME = re.compile(r"/lib(?:g|i)?omp\d?[-.][^/]*$", re.MULTILINE)
"""The end of the path of GCC's, Intel's or LLVM's OpenMP library."""


class Library:
    """One loaded shared library; every function of `SIGNATURES` is an attribute."""

    def __init__(self, path: Path, variant: str) -> None:
        self.variant = variant
        self._handle = ctypes.CDLL(str(path))
        if self._handle.sparsernn_interface() != INTERFACE:
            raise OSError(f"{path.name} was built from other sources; run python -m sparsernn.kernels.build")
        for name, arguments in SIGNATURES.items():
            function = getattr(self._handle, f"sparsernn_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)
        self.openmp = bool(self._handle.sparsernn_has_openmp())
        self.one_pool = self.openmp and _one_pool()

    def __getattr__(self, name: str) -> Callable[..., None]:
        raise AttributeError(name)

    def threads(self, wanted: int | None = None) -> int:
        """How many threads a call uses: `wanted`, or torch's number; always 1 without OpenMP.

        Raises:
            InputError: a number that no machine has.
        """
        check_threads(wanted)
        return (wanted or torch.get_num_threads()) if self.openmp else 1

    def take_vnni(self, wanted: bool) -> bool:
        """Whether 8-bit products use AVX-512 VNNI from now on: where it is wanted, there, and in this library.

        It is used wherever it is there; the sums are the same.
        """
        return bool(self._handle.sparsernn_take_vnni(int(wanted)))

    def threads_between(self) -> int:
        """The same for calls between torch's own: 1 unless both use one pool of threads.

        The threads of a second pool would compete with those of the first, which look for work for a while.
        """
        return torch.get_num_threads() if self.one_pool else 1


_THREADS = form_of(Annotated[int, Between(1, MOST_THREADS)] | None)  # read once: every call of a kernel asks


def check_threads(wanted: int | None) -> None:
    """Raise InputError unless the number of threads is None or one that a machine may have.

    Example:
        >>> check_threads(0)
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: threads is 0; it must be a whole number in [1, 1024] or null.
    """
    _THREADS.refuse("threads", wanted)


def _one_pool() -> bool:
    """Whether torch and the kernels run on the same OpenMP library; no, where that cannot be seen."""
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return len(set(OPENMP_RUNTIME.findall(loaded))) == 1


def _path(variant: str) -> Path:
    return Path(__file__).resolve().parent / f"_sparse_{variant}.so"


def _load(variant: str) -> Library:
    return Library(_path(variant), variant)


def _runnable() -> list[str]:
    """The widths that this machine has the instructions for."""
    words = list(NEEDS.values())
    word = torch.backends.cpu.get_cpu_capability()
    return list(NEEDS)[: words.index(word) + 1 if word in words else 1]


@cache
def _find(wish: str) -> tuple[Library | None, str]:
    """The widest usable library (or the one wished for) and "", or None and the reason."""
    names = [name for name in _runnable() if wish in ("", name)]
    if not names:
        return None, f"this processor has no {wish}"
    for name in reversed(names):
        if _path(name).exists():
            try:
                return _load(name), ""
            except OSError as fault:
                return None, str(fault)
    return None, NOT_BUILT


def _wish() -> str:
    wish = os.environ.get("SPARSERNN_KERNELS", "")
    if wish:
        check_value("SPARSERNN_KERNELS", wish, Annotated[str, OneOf(NEEDS)])
    return wish


def _switched_off() -> bool:
    return os.environ.get("SPARSERNN_NO_KERNELS", "0") not in ("", "0")


def library() -> Library | None:
    """The library in use, or None: then the twins do the work."""
    if _switched_off():
        return None
    return _find(_wish())[0]


def loaded() -> Library:
    """The library in use, for those who have asked whether there is one.

    Raises:
        InputError: there is none.
    """
    found = library()
    if found is None:
        raise InputError("the compiled kernels were called where there are none; ask takes() first.")
    return found


def available() -> bool:
    """Whether the compiled kernels are in use.

    Example:
        >>> available() in (True, False)
        True
    """
    return library() is not None


def describe() -> str:
    """One line for `sparsernn doctor`.

    Example:
        >>> describe().startswith("kernels: ")
        True
    """
    found = library()
    if found is not None:
        threads = "OpenMP" if found.openmp else "one thread, no OpenMP"
        return f"kernels: compiled, {found.variant} instructions, {threads}"
    return f"kernels: pure-torch twins ({missing()})"


def missing() -> str:
    """Why the compiled kernels are not in use; "" where they are.

    Example:
        >>> (missing() == "") == available()
        True
    """
    if available():
        return ""
    return "SPARSERNN_NO_KERNELS is set" if _switched_off() else _find(_wish())[1]
