"""The compiled softmax over a vocabulary: loss and gradient of the scores in one visit of each row.

For dense float32 and bfloat16 on the CPU. `sparsernn.nn.words.softmax` has the twin in torch and uses this where
`takes` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels.library import library, loaded

SHARED_FROM = 1 << 15
"""Scores from which rows are shared out: one thread takes 20 us or more (700 x 9296: 4.6 ms, AMD EPYC, AVX-512)."""


def takes(scores: Tensor) -> bool:
    """Whether the compiled softmax takes scores (N, V): dense float32 or bfloat16 on the CPU, and a library.

    None that are only traced for `torch.export`, which have no memory.

    Example:
        >>> takes(torch.zeros(2, 3, dtype=torch.float64))
        False
    """
    return (
        scores.dtype in (torch.float32, torch.bfloat16)
        and scores.device.type == "cpu"
        and scores.is_contiguous()
        and not is_exporting()
        and scores.numel() > 0
        and library() is not None
    )


def softmax(scores: Tensor, bias: Tensor | None, target: Tensor, keep: bool) -> Tensor:
    """-log softmax(scores + bias) at the target.

    Args:
        scores: (N, V), which `takes` accepts; where `keep`, probabilities less one at the target take their place.
        bias: (V,) float32, or None.
        target: (N,) int64, in [0, V).
        keep: whether the gradient is wanted.

    Returns:
        nats, (N,) float32.

    Raises:
        IndexError: a target that is no column, as torch has it.

    Example:
        >>> scores = torch.zeros(1, 4)
        >>> if takes(scores): print(softmax(scores, None, torch.tensor([2]), True).exp(), scores)
        ... else: print("tensor([4.]) tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])")
        tensor([4.]) tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])
    """
    found, (rows, columns) = loaded(), scores.shape
    if target.shape != (rows,) or (bias is not None and bias.shape != (columns,)):
        raise IndexError(f"the target has the shape {tuple(target.shape)}; it must be ({rows},).")
    low, high = target.aminmax()
    if low < 0 or high >= columns:
        raise IndexError(f"a target is {int(low if low < 0 else high)}; it must be in [0, {columns}).")
    threads = found.threads_between() if scores.numel() >= SHARED_FROM else 1
    bias = bias if bias is None else bias.to(scores.device, torch.float32).contiguous()
    target = target.to(scores.device, torch.int64).contiguous()
    nll = torch.empty(rows, dtype=torch.float32, device=scores.device)
    rounded = scores.dtype == torch.bfloat16
    own = threads * columns if rounded or not keep else 0
    scratch = torch.empty(own, dtype=torch.float32, device=scores.device)
    places = [None if t is None else t.data_ptr() for t in (scores, bias, target, nll, scratch)]
    found.softmax(*places, rows, columns, int(rounded), int(keep), threads)
    return nll
