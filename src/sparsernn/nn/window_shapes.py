"""Whether a layer can read what it is given: torch's recurrent kernels take other shapes and read beyond memory."""

from collections.abc import Sequence

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.torch_releases import is_exporting


def check_window(
    x: Tensor,
    state: Sequence[Tensor],
    lengths: Tensor | None,
    features: int,
    units: int,
    least: int = 1,
) -> None:
    """Refuse a window whose shapes do not fit a layer, each other, or the lengths.

    Args:
        x: (T, B, I).
        state: tensors (B, H), or with more dimensions before those.
        lengths: valid steps of each sequence, (B,); None for all.
        features: I.
        units: H.
        least: steps that each sequence has to have.

    Raises:
        InputError: naming the shape, or the length, and what it must be.

    Example:
        >>> import torch
        >>> check_window(torch.zeros(5, 3, 4), (torch.zeros(3, 6),), torch.tensor([5, 3, 1]), 4, 6)
        >>> check_window(torch.zeros(5, 3, 3), (), None, 4, 6)
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: the window has the shape (5, 3, 3); this layer reads (T, B, 4): steps, ...
    """
    if is_exporting():  # there the sizes are symbols
        return
    if x.dim() != 3 or x.shape[2] != features:
        raise InputError(
            f"the window has the shape {tuple(x.shape)}; this layer reads (T, B, {features}): steps, sequences, "
            "features."
        )
    steps, batch = x.shape[:2]
    for part in state:
        if part.shape[-2:] != (batch, units):
            raise InputError(
                f"the state has the shape {tuple(part.shape)}; for {batch} sequences and {units} units it must be "
                f"({batch}, {units})."
            )
    if lengths is not None:
        _check_lengths(lengths, steps, batch, least)


def _check_lengths(lengths: Tensor, steps: int, batch: int, least: int) -> None:
    if lengths.shape != (batch,):
        raise InputError(
            f"lengths has the shape {tuple(lengths.shape)}; it must be one number for each of {batch} sequences."
        )
    if lengths.is_floating_point() or lengths.is_complex():
        raise InputError(f"lengths is of {lengths.dtype}; it must be of whole numbers.")
    if batch and not least <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise InputError(
            f"lengths go from {int(lengths.min())} to {int(lengths.max())}; they must lie in {least} to {steps}."
        )
