"""Every Triton kernel, compiled for cards that are not here; a line for each: name, card, type, machine code.

    python tests/device/card_compiler.py [CARD] [TYPE]

Triton brings all that it takes, down to the assembler; only running a kernel needs the card.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsernn.kernels import (
    blocks_triton,
    forget_triton,
    ordered_triton,
    recurrence_triton,
    triton_language,
    window_triton,
)
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.kernels.triton_language import Kernel

CARDS = {"A100": 80, "H100": 90}
"""Card -> its compute capability."""
WORDS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}
OPTIONS = ("num_warps", "num_stages")


def word(argument: object) -> str:
    """What Triton calls the type of an argument."""
    return WORDS[argument.dtype] if isinstance(argument, torch.Tensor) else "i32"


def compiled(
    kernel: Kernel, card: str, arguments: tuple[object, ...], constants: dict[str, object]
) -> object:
    """The kernel as it would be launched with these arguments."""
    function = kernel.ready()
    names = function.arg_names
    given = list(zip(names, arguments, strict=False))
    types = {name: word(argument) for name, argument in given}
    # a number that is 1 is a constant, as in a launch
    fixed = {name: 1 for name, argument in given if isinstance(argument, int) and argument == 1}
    fixed |= {name: value for name, value in constants.items() if name not in OPTIONS}
    source = ASTSource(function, types | dict.fromkeys(fixed, "constexpr"), fixed)
    options = {name: constants[name] for name in OPTIONS if name in constants}
    return triton.compile(source, target=GPUTarget("cuda", CARDS[card], 32), options=options)


def launches(kinds: tuple[torch.dtype, ...]) -> None:
    """Every kernel once in each type; those of blocks are float32."""
    for kind in kinds:
        for shape in ((20, 20, 1550), (200, 1, 50)):
            p, q = torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind)
            for gated in (True, False):
                forget_triton.forward(p, q, p[0], gated)
                forget_triton.backward(p, p, q, p[0], q, gated)
        h, wide = torch.zeros(20, 1150, dtype=kind), torch.zeros(20, 4 * 1150 + 2 * 115, dtype=kind)
        recurrence_triton.highway_forward(wide, h, h)
        recurrence_triton.highway_backward(h, wide, h, wide)
        recurrence_triton.free_highway_forward(wide, h, h)
        recurrence_triton.free_highway_backward(h, wide, h, wide)
        recurrence_triton.gates_forward(wide, h, h)
        recurrence_triton.gates_backward(h, h, wide, h, h, wide)
        recurrence_triton.modrelu_forward(h, h[0], h)
        recurrence_triton.ordered_forward(wide, h, h, 115)
        recurrence_triton.ordered_backward((h, h), wide, h, h, wide, 115)

        if triton_language.multiplies(kind):
            windows(kind)
            ordered_windows(kind)

    layout = Layout(torch.ones(6000, 1500, dtype=torch.bool))
    values, x, y = torch.zeros(layout.size), torch.zeros(20, 1500), torch.zeros(20, 6000)
    for name in ("highest", "high"):
        torch.set_float32_matmul_precision(name)
        for base in ((None, None), (y[0], x[0]), (y, x)):
            blocks_triton.forward(layout, values, base[0], x)
            blocks_triton.back(layout, values, base[1], y)
        blocks_triton.gradient(layout, x, y)


def windows(kind: torch.dtype) -> None:
    """Every rule forth and back, that of the RHN with a mask and without, and with one of everything."""
    sizes, one = (35, 20, 190, 3), (1, 1, 1, 1)
    cases = [(rule, sizes, False) for rule in window_triton.KINDS]
    for rule, (steps, batch, width, depth), masked in (
        *cases,
        ("highway", sizes, True),
        ("highway", one, False),
    ):
        number = window_triton.KINDS[rule]
        rows = window_triton.GATES[number] * width
        u, weight = torch.zeros(steps, batch, rows, dtype=kind), torch.zeros(depth, rows, width, dtype=kind)
        fed = torch.zeros(steps * depth + 1, batch, width, dtype=kind)
        mask = fed[0] if masked else None
        window_triton.forward(rule, u, weight, None, mask, fed, keep=not masked)
        opened = torch.zeros(depth, steps, batch, rows, dtype=kind) if number > 3 else None
        window_triton.backward(rule, (fed[:steps], fed[0]), weight, mask, fed, opened)


def ordered_windows(kind: torch.dtype) -> None:
    """With as many chunks as there may be, with few, and with one of everything."""
    for steps, batch, chunks, size in (
        (35, 20, ordered_triton.CHUNKS_UP_TO, 1),
        (35, 20, 20, 10),
        (1, 1, 1, 1),
    ):
        width, rows = chunks * size, 2 * chunks + 4 * chunks * size
        u, weight = torch.zeros(steps, batch, rows, dtype=kind), torch.zeros(rows, width, dtype=kind)
        fed = torch.zeros(steps + 1, batch, width, dtype=kind)
        for keep in (True, False):
            ordered_triton.forward(chunks, u, weight, fed, fed, keep)
        ordered_triton.backward(chunks, fed[:steps], (fed[0], fed[0]), weight, fed, u)


def main(card: str | None = None, kind: str | None = None) -> None:
    """Compile all that is launched, for one card or all, in one type or both; an error of Triton's ends it."""
    seen, cards = set(), [card] if card else list(CARDS)

    def launch(kernel: Kernel, programs: object, *arguments: object, **constants: object) -> None:
        for card in cards:
            ones = tuple(argument == 1 for argument in arguments if isinstance(argument, int))
            key = (card, kernel.function.__name__, *map(word, arguments), ones, *constants.items())
            if key not in seen:
                seen.add(key)
                size = len(compiled(kernel, card, arguments, constants).asm["cubin"])
                print(kernel.function.__name__, card, word(arguments[0]), f"{size} bytes")

    Kernel.launch = launch
    launches((getattr(torch, kind),) if kind else (torch.float32, torch.float64))


if __name__ == "__main__":
    main(*sys.argv[1:])
