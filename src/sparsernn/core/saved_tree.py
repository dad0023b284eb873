"""Whether what was saved can be taken for what there is: keys and tensors, said as the end of a sentence."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsernn.core.plain import Json

Types = type | tuple[type, ...]


def wrong_keys(saved: Mapping[str, Json], wanted: Mapping[str, Types], *, more: bool = True) -> str:
    """Why a saved mapping is of another kind; "" where it is not.

    Args:
        saved: what was saved.
        wanted: key -> type of its value.
        more: whether other keys are fine.

    Example:
        >>> wrong_keys({"step": "1"}, {"step": int}), wrong_keys({"a": 1, "b": 2}, {"a": int}, more=False)
        ("holds a str as 'step'", "has 'b'")
    """
    for key, kind in wanted.items():
        if key not in saved:
            return f"has no '{key}'"
        if not isinstance(saved[key], kind):
            return f"holds a {type(saved[key]).__name__} as '{key}'"
    surplus = [] if more else sorted(map(str, saved.keys() - wanted.keys()))
    return f"has '{surplus[0]}'" if surplus else ""


def misfit(saved: object, own: Tensor, *, same_type: bool = True) -> str:
    """Why a saved tensor cannot be taken for the own one; "" where it can.

    One of a single row would be copied into every row without a word, and truths would become numbers.

    Args:
        saved: what was saved.
        own: what it is taken for.
        same_type: refuse other floating point numbers too.

    Example:
        >>> misfit(torch.zeros(2), torch.zeros(3)), misfit(None, torch.zeros(3))
        ('has shape (2,) there and (3,) here', 'is a NoneType, where a tensor is needed')
    """
    if not isinstance(saved, Tensor):
        return f"is a {type(saved).__name__}, where a tensor is needed"
    if saved.shape != own.shape:
        return f"has shape {tuple(saved.shape)} there and {tuple(own.shape)} here"
    if saved.dtype != own.dtype and (same_type or torch.bool in (saved.dtype, own.dtype)):
        return f"has type {saved.dtype} there and {own.dtype} here"
    return ""
