"""Triton, where it is installed: what a kernel is written in, and how one is launched.

Triton takes a quarter of a second to import, so that it is imported when the first kernel is launched. With
TRITON_INTERPRET=1 in the environment its interpreter runs the kernels, on the values of any tensors.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

KINDS = (torch.float32, torch.float64)
DOUBLES_FROM = (3, 7)
"""The version whose products take float64, as far as tried: 3.2 has none of them."""


@cache
def installed() -> bool:
    """Whether Triton is there.

    Example:
        >>> installed() in (True, False)
        True
    """
    return importlib.util.find_spec("triton") is not None


def ready() -> bool:
    """Whether Triton is there and SPARSERNN_NO_KERNELS does not leave all work to torch, as it does on the CPU."""
    return installed() and not os.environ.get("SPARSERNN_NO_KERNELS")


def takes(*tensors: Tensor) -> bool:
    """Whether Triton kernels take these: float32 or float64 on a CUDA device, and Triton is `ready`.

    Example:
        >>> takes(torch.zeros(1))
        False
    """
    return all(t.is_cuda and t.dtype in KINDS for t in tensors) and ready()


@cache
def multiplies(kind: torch.dtype) -> bool:
    """Whether the Triton that is there has products of matrices of a type.

    Example:
        >>> multiplies(torch.float32)
        True
    """
    if kind != torch.float64:
        return True
    return tuple(map(int, importlib.import_module("triton").__version__.split(".")[:2])) >= DOUBLES_FROM


def precision() -> str:
    """What products of float32 are to be, as Triton calls it: torch's own setting.

    Example:
        >>> precision() in ("ieee", "tf32")
        True
    """
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


class Kernel:
    """A function in Triton's language, which it finds as `tl` among the globals of its module.

    Args:
        function: a kernel, or what kernels of the same module call.

    Example:
        >>> Kernel(max)
        Kernel(max)
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self._ready: Any = None

    def __repr__(self) -> str:
        return f"Kernel({self.function.__name__})"

    def __call__(self, *arguments: Any) -> Any:
        """In another kernel, which Triton reads: what it calls there."""
        return self.ready()(*arguments)

    def launch(self, programs: int | tuple[int, ...], *arguments: object, **constants: object) -> None:
        """Run so many programs of it, along up to three axes; none where one of the numbers is 0.

        Args:
            programs: how many.
            arguments: tensors, of which the kernel sees the addresses, and numbers.
            constants: what the kernel is compiled for; `num_warps`, warps of 32 threads a program.
        """
        grid = programs if isinstance(programs, tuple) else (programs,)
        if all(grid):
            with _on_device_of(arguments):
                self.ready()[grid](*arguments, **constants)

    def ready(self) -> Any:
        """As Triton has it."""
        if self._ready is None:
            known = self.function.__globals__
            known["tl"] = importlib.import_module("triton.language")
            for name in self.function.__code__.co_names:  # Triton knows its own functions alone
                if isinstance(known.get(name), Kernel):
                    known[name] = known[name].ready()
            self._ready = importlib.import_module("triton").jit(self.function)
        return self._ready


def _on_device_of(arguments: Sequence[object]) -> AbstractContextManager[object]:
    """Triton launches on the current device, wherever the tensors are."""
    place = next((a.device for a in arguments if isinstance(a, Tensor)), None)
    if place is None or place.type != "cuda" or place.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(place)


def power_above(number: int) -> int:
    """The smallest power of two that is not below a number; Triton's blocks are powers of two.

    Example:
        >>> power_above(1), power_above(5)
        (1, 8)
    """
    return 1 << max(number - 1, 0).bit_length()
