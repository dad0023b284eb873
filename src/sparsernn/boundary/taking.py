"""Whether a synthesizer of another run fits this one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sparsernn.errors import InputError


def check_fits(saved: Mapping[str, Any], own: Mapping[str, Tensor], scale: str) -> None:
    """Refuse what cannot be taken up.

    Args:
        saved: the `state_dict` of a boundary.
        own: the tensors of this run's synthesizer.
        scale: the unit of its estimates.

    Raises:
        InputError: one sentence without its subject, the place where `saved` was found.

    Example:
        >>> check_fits({}, {}, "tokens")
        Traceback (most recent call last):
        sparsernn.errors.InputError: holds no synthesizer; it must be the last checkpoint of a run that trained one
    """
    if "synthesizer" not in saved:
        raise InputError("holds no synthesizer; it must be the last checkpoint of a run that trained one")
    theirs = saved["synthesizer"]
    odd = sorted(own.keys() ^ theirs.keys())
    if odd:
        raise InputError(f"holds another synthesizer: the tensor '{odd[0]}' is on one side only")
    for name, tensor in own.items():
        if tensor.shape != theirs[name].shape:
            sizes = f"{tuple(theirs[name].shape)} there and {tuple(tensor.shape)} here"
            raise InputError(f"holds another synthesizer: '{name}' has shape {sizes}")
    unit = saved.get("scale", scale)  # runs from before it was written down do not say
    if unit != scale:
        raise InputError(
            f"holds a synthesizer whose estimates have the unit '{unit}'; boundary.scale is '{scale}'"
        )
