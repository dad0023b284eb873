"""Batches of a long text: parallel streams, and the windows in which training walks over them."""

import random as random_numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_names
from sparsernn.core.limits import AtLeast, Count, NonNegative, Share, Size
from sparsernn.core.plain import Json
from sparsernn.core.streams import draws


@checked
@dataclass(frozen=True)
class RandomWindows:
    """Windows of random length, so that the cuts fall elsewhere in every epoch.

    A window's length is max(minimum, int(n)) with n from Normal(base, spread), where base is the window, or
    half of it with probability `half`; never more than window + max_delta.

    Args:
        max_delta: rows by which a window may exceed the nominal one; None: no cap (as the ON-LSTM code has
            it).
        half: probability of a window of half the length, in [0, 1].
        minimum: fewest rows, at least 1; only what is left at the end of the text may be shorter.
        spread: standard deviation of the length in rows, at least 0.

    Raises:
        InputError: a value out of its range.

    Source: S. Merity, N. S. Keskar, R. Socher, Regularizing and Optimizing LSTM Language Models, 2017,
        arXiv:1708.02182 (section 5); the cap of 40 is the one of the mixture-of-softmaxes code (Z. Yang and
        others, Breaking the Softmax Bottleneck, 2018, arXiv:1711.03953).
    """

    max_delta: Count | None = 40
    half: Share = 0.05
    minimum: Size = 5
    spread: NonNegative = 5.0

    def length(self, window: int, generator: random_numbers.Random) -> int:
        """Draw one length in rows."""
        base = window / 2 if generator.random() < self.half else window
        uniform = max(generator.random(), 1e-16)  # the quantile at 0 is minus infinity
        drawn = int(base + self.spread * NormalDist().inv_cdf(uniform))
        capped = drawn if self.max_delta is None else min(drawn, window + self.max_delta)
        return max(self.minimum, capped)


def random_windows(spec: RandomWindows | Mapping[str, Json] | bool | None) -> RandomWindows | None:
    """What a recipe has under `random_windows`: false or null (fixed), true, or settings of RandomWindows.

    Raises:
        InputError: an unknown setting, or a value of another kind.

    Example:
        >>> random_windows({"max_delta": 20}).max_delta
        20
    """
    if spec is None or isinstance(spec, RandomWindows):
        return spec
    if isinstance(spec, bool):
        return RandomWindows() if spec else None
    known = [field.name for field in fields(RandomWindows)]
    check_value("random_windows", spec, bool | Mapping[str, Json])
    check_names("random_windows", spec, known)
    return RandomWindows(**spec)


def check_rows(ids: Tensor, batch_size: int, split: str = "text") -> None:
    """Raise InputError unless `ids` fill two rows of `batch_size` streams (one to read, one to predict)."""
    check_value("batch_size", batch_size, Size)
    if len(ids) < 2 * batch_size:
        raise InputError(
            f"the {split} split has {len(ids):,} tokens, too few for batch_size {batch_size}; "
            f"it needs at least {2 * batch_size:,} (two rows), so take a smaller batch_size or a longer text."
        )


def streams(ids: Tensor, batch_size: int, split: str = "text") -> Tensor:
    """Cut a text into `batch_size` stretches of equal length that are read in parallel.

    Args:
        ids: int64, shape (tokens,), or uint16 or uint32, as long texts have them.
        batch_size: number of streams B, at least 1.
        split: name of the text for the error message.

    Returns:
        Shape (N, B); column b is the b-th stretch. The tokens % B last ids are left out. Of int64 contiguous; of
        narrower ids a view, which reads none of them: they may lie on the disk.

    Raises:
        InputError: fewer than two rows.

    Example:
        >>> import torch
        >>> streams(torch.arange(7), 2)
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """
    check_rows(ids, batch_size, split)
    rows = len(ids) // batch_size
    side_by_side = ids[: rows * batch_size].view(batch_size, rows).t()
    return side_by_side.contiguous() if ids.dtype == torch.int64 else side_by_side


def window_bounds(
    rows: int, window: int, *, random: RandomWindows | None = None, seed: int = 0, epoch: int = 0
) -> list[tuple[int, int]]:
    """Start and length of every window of an epoch: a pure function, so a resumed run repeats it.

    Together the windows read rows 0 ... rows-2 exactly once, and predict rows 1 ... rows-1 exactly once.

    Args:
        rows: rows N of the streams, at least 2.
        window: nominal length, at least 1; the last window may be shorter.
        random: draw the lengths instead (reproducible on every machine and Python version); None: fixed.
        seed: of the run; used only with `random`.
        epoch: counted from 0 or 1, as the caller likes; used only with `random`.

    Raises:
        InputError: `rows` below 2 or `window` below 1.

    Differs from the original: the published loops with random windows drop the last row when only one is
        left; here it is a window of its own.

    Example:
        >>> window_bounds(8, 3)
        [(0, 3), (3, 3), (6, 1)]
    """
    check_value("rows", rows, Annotated[int, AtLeast(2)])
    check_value("window", window, Size)
    # random() is the one method whose values Python promises to keep.
    generator = draws("windows", seed, epoch)
    bounds, start = [], 0
    while start < rows - 1:
        wanted = window if random is None else random.length(window, generator)
        length = min(wanted, rows - 1 - start)
        bounds.append((start, length))
        start += length
    return bounds


def window_of(stream: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one window of `stream` (N, B), each (length, B) int64, targets one row later.

    Views of a stream that is int64 itself; else the window, and no more, is read.

    Example:
        >>> import torch
        >>> inputs, targets = window_of(streams(torch.arange(8), 2), 1, 2)
        >>> inputs.tolist(), targets.tolist()
        ([[1, 5], [2, 6]], [[2, 6], [3, 7]])
    """
    rows = stream[start : start + length + 1].to(torch.int64, memory_format=torch.contiguous_format)
    return rows[:-1], rows[1:]
