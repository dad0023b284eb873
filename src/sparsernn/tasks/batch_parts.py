"""Batches in parts, for several processes."""

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.peers import share_of


def check_share(what: str, size: int, parts: int) -> None:
    """Raise InputError unless each of so many processes gets at least one of `size` sequences.

    Example:
        >>> check_share("batch_size", 2, 3)
        Traceback (most recent call last):
        ...
        sparsernn.core.errors.InputError: batch_size is 2, which 3 processes cannot share; it must be at least 3.
    """
    if size < parts:
        raise InputError(
            f"{what} is {size}, which {parts} processes cannot share; it must be at least {parts}."
        )


def check_shares(batch_size: int, sequences: int, parts: int) -> None:
    """`check_share` of the batches of an epoch, whose last one has what is left of the sequences.

    >>> check_shares(4, 10, 2)
    >>> check_shares(4, 9, 2)
    Traceback (most recent call last):
    ...
    sparsernn.core.errors.InputError: the last batch of an epoch with batch_size 4 is 1, which 2 processes cannot \
share; it must be at least 2.
    """
    check_share("batch_size", batch_size, parts)
    left = sequences % batch_size
    if left:
        check_share(f"the last batch of an epoch with batch_size {batch_size}", left, parts)


def columns(tensor: Tensor, number: int, parts: int, dim: int = 1) -> Tensor:
    """One of the parts along the batch's dimension, contiguous as the whole is.

    >>> import torch
    >>> columns(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]), 1, 2)
    tensor([[2, 3],
            [6, 7]])
    """
    share = share_of(tensor.shape[dim], number, parts)
    return tensor.narrow(dim, share.start, share.stop - share.start).contiguous()
