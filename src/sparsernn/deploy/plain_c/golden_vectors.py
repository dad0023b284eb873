"""What proves on the device that the C says what the model says: golden vectors, a program, a Makefile."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sparsernn.core.streams import stream
from sparsernn.deploy.plain_c.const_tables import Constant, Floats
from sparsernn.deploy.plain_c.step_program import StepProgram, scores

STEPS = 16
SHOWN = 256
"""Answers of a step that are kept at most; of more, every second, third ... one."""
CLOSE = 1e-5

CHECK = """\
#include <stdio.h>

#include "NAME.h"
#include "golden.h"

static NAME_state state;
static float y[GUARD_OUTPUTS];

static float size_of(float x)
{
    return x < 0.0f ? -x : x;
}

/* Twice, so that NAME_reset() is seen to forget. An answer may be off by what is allowed, or by as much of itself
   where it is larger than 1. */
int main(void)
{
    long wrong = 0;
    float largest = 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
        NAME_reset(&state);
        for (long t = 0; t < GOLDEN_STEPS; ++t) {
            STEP
            for (long k = 0; k < GOLDEN_SHOWN; ++k) {
                const float wanted = golden_y[t * GOLDEN_SHOWN + k];
                const float size = size_of(wanted) > 1.0f ? size_of(wanted) : 1.0f;
                const float off = size_of(y[k * GOLDEN_STRIDE] - wanted) / size;
                if (!(off <= GOLDEN_ALLOWED))
                    ++wrong;
                if (off > largest)
                    largest = off;
            }
        }
    }
    OTHERS
    printf("%s: %d steps, %d answers each, largest difference %g, allowed %g\\n", wrong ? "WRONG" : "equal",
           GOLDEN_STEPS, GOLDEN_SHOWN, (double)largest, (double)GOLDEN_ALLOWED);
    return wrong ? 1 : 0;
}
"""
OF_WORDS = (
    "if (NAME_step(&state, golden_x[t], y))\n                ++wrong;",
    "if (NAME_step(&state, -1, y) != -1 || NAME_step(&state, GUARD_WORDS, y) != -1)\n        ++wrong;",
)
OF_SAMPLES = ("NAME_step(&state, golden_x + t * GUARD_INPUTS, y);", "")

MAKEFILE = """\
# make check   compiles NAME.c with the compiler CC and compares it with the model that it was written from
#              RUN is what runs the program where the compiler is another machine's: an emulator, a debugger's loader
CFLAGS = -O2
RUN =
FLAGS = -std=c99 -Wall -Wextra -ffp-contract=off

check: NAME_check
	$(RUN) ./NAME_check

NAME_check: check.c NAME.c NAME.h golden.h
	$(CC) $(FLAGS) $(CFLAGS) -o $@ check.c NAME.c -lm

clean:
	rm -f NAME_check

.PHONY: check clean
"""


def example(program: StepProgram) -> Tensor:
    """Inputs for the check, the same at every call: (T,) int64, or (T, I)."""
    draws = stream("golden vectors")
    if program.words:
        return torch.randint(program.inputs, (STEPS,), generator=draws)
    return torch.randn(STEPS, program.inputs, generator=draws)


def twin_scores(program: StepProgram, inputs: Tensor) -> Floats:
    """What the twin of a rounded program says at each of the inputs: (T, outputs)."""
    state = program.start()
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([program.twin(state, x) for x in inputs.numpy()])


def checked_by(program: StepProgram, model: nn.Module) -> tuple[dict[str, str], float]:
    """The files of the check, name -> text, and how far rounding moves the model's answers (0 without).

    Args:
        program: of the model.
        model: in float32 on the CPU.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> model = SequenceModel(3, 2, [4])
        >>> files, moved = checked_by(StepProgram(model, "model"), model)
        >>> sorted(files), moved
        (['Makefile', 'check.c', 'golden.h'], 0.0)
    """
    inputs = example(program)
    exact = scores(model, inputs)
    wanted = twin_scores(program, inputs) if program.rounded else exact
    stride = -(-program.outputs // SHOWN)
    shown = np.ascontiguousarray(wanted[:, ::stride])
    x = inputs.numpy().astype(np.int32 if program.words else np.float32).reshape(-1)
    allowed = "0.0f" if program.rounded else f"{CLOSE:g}f"
    golden = [
        "#include <stdint.h>\n",
        f"#define GOLDEN_STEPS {STEPS}",
        f"#define GOLDEN_SHOWN {shown.shape[1]}",
        f"#define GOLDEN_STRIDE {stride}",
        f"#define GOLDEN_ALLOWED {allowed}\n",
        Constant("golden_x", x).text(),
        Constant("golden_y", shown.reshape(-1)).text(),
    ]
    step, others = OF_WORDS if program.words else OF_SAMPLES
    files = {
        "golden.h": "\n".join(golden),
        "check.c": _named(
            CHECK.replace("STEP\n", step + "\n").replace("    OTHERS\n", f"    {others}\n" if others else ""),
            program,
        ),
        "Makefile": _named(MAKEFILE, program),
    }
    return files, float(np.abs(wanted - exact).max())


def _named(text: str, program: StepProgram) -> str:
    return text.replace("NAME", program.name).replace("GUARD", program.name.upper())
