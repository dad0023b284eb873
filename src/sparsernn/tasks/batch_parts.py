"""Batches in equal parts, for several processes."""

from torch import Tensor

from sparsernn.core.errors import InputError


def equal_parts(what: str, size: int, parts: int) -> None:
    """Raise InputError unless `size` sequences can be divided into that many equal parts.

    Example:
        >>> equal_parts("batch_size", 20, 3)
        Traceback (most recent call last):
        ...
        sparsernn.core.errors.InputError: batch_size is 20, which 3 processes cannot share evenly; it must be a \
multiple of 3.
    """
    if size % parts:
        raise InputError(
            f"{what} is {size}, which {parts} processes cannot share evenly; it must be a multiple of {parts}."
        )


def columns(tensor: Tensor, number: int, parts: int, dim: int = 1) -> Tensor:
    """One of the equal parts along the batch's dimension, contiguous as the whole is.

    >>> import torch
    >>> columns(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]), 1, 2)
    tensor([[2, 3],
            [6, 7]])
    """
    size = tensor.shape[dim] // parts
    return tensor.narrow(dim, number * size, size).contiguous()
