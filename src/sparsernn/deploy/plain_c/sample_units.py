"""How a firmware turns numbers in their own units into what a model of series reads, and its answers back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sparsernn.deploy.plain_c.const_tables import Constant, literal


class Scaling(Protocol):
    """What training has learned of its columns, as `sparsernn.tasks.series_scaling.Scaling` keeps it."""

    @property
    def mean(self) -> Sequence[float]:
        """C numbers."""

    @property
    def std(self) -> Sequence[float]:
        """C numbers above 0."""

    @property
    def target(self) -> tuple[float, float]:
        """Mean and standard deviation of the answers; (0, 1) for scores of labels."""

    @property
    def masked(self) -> bool:
        """Whether a second half of the inputs says what is missing."""


class NoUnits:
    """A model that reads words, or samples as they are.

    Attributes:
        constants: tables of its functions.
        declarations: lines of the header.
        definitions: lines of the source.
    """

    def __init__(self) -> None:
        self.constants: list[Constant] = []
        self.declarations: list[str] = []
        self.definitions: list[str] = []


class SampleUnits(NoUnits):
    """`NAME_scale`, and where answers are numbers `NAME_unscale`, in float32.

    Args:
        name: of the model in C.
        scaling: of its run.

    Example:
        >>> from sparsernn.tasks.series_scaling import Scaling
        >>> SampleUnits("net", Scaling((1.0, 2.0), (0.5, 3.0))).declarations[0]
        '#define NET_COLUMNS 2'
    """

    def __init__(self, name: str, scaling: Scaling) -> None:
        super().__init__()
        for suffix, values in (("mean", scaling.mean), ("std", scaling.std)):
            self.constants.append(Constant(f"column_{suffix}", np.array(values, dtype=np.float32)))
        self._columns(name, len(scaling.mean), scaling.masked)
        if tuple(scaling.target) != (0.0, 1.0):
            self._answers(name, *scaling.target)

    def _columns(self, name: str, count: int, masked: bool) -> None:
        guard, missing = name.upper(), "; NAN where it is missing" if masked else ""
        call = f"void {name}_scale(const float raw[{count}], float x[{guard}_INPUTS])"
        self.declarations += [
            f"#define {guard}_COLUMNS {count}",
            "",
            f"/* What a step reads, from a sample in the columns' own units{missing}. */",
            f"{call};",
            "",
        ]
        body = (
            MASKED.replace("COUNT", str(count))
            if masked
            else "x[k] = (raw[k] - column_mean[k]) / column_std[k];"
        )
        loop = f"    for (int32_t k = 0; k < {count}; ++k) {{\n        {body}\n    }}"
        self.definitions += [f"{call}\n{{\n{loop}\n}}", ""]

    def _answers(self, name: str, mean: float, std: float) -> None:
        call = f"float {name}_unscale(float y)"
        factors = [literal(float(np.float32(number))) for number in (std, mean)]
        self.declarations += ["/* An answer in the target's own unit. */", f"{call};", ""]
        self.definitions += [f"{call}\n{{\n    return y * {factors[0]} + {factors[1]};\n}}", ""]


MASKED = """\
const int there = raw[k] == raw[k];
        x[k] = there ? (raw[k] - column_mean[k]) / column_std[k] : 0.0f;
        x[COUNT + k] = there ? 0.0f : 1.0f;"""
