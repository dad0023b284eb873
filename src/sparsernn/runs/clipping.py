"""Keeping gradients small before the optimizer's step."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def clip(
    parameters: Sequence[torch.nn.Parameter],
    largest: float | Mapping[str, float] | None,
    masks: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Keep the gradients small; returns their joint norm as it came.

    Without masks the norm includes the gradients of absent weights, wherever they are computed: published learning
    rates and clips assume that dense norm.

    Args:
        parameters: the trained ones.
        largest: a number or {"norm": number} scales all gradients so that their joint norm is at most that;
            {"value": number} cuts every single one off at plus and minus that; None leaves them.
        masks: identity of a parameter -> bool of its shape; of these the norm counts what is True only.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, -4.0])
        >>> clip([w], {"value": 1.0}).item(), w.grad.tolist()
        (5.0, [1.0, -1.0])
        >>> clip([w], 0.5, {id(w): torch.tensor([True, False])}).item(), w.grad.round(decimals=3).tolist()
        (1.0, [0.5, -0.5])
    """
    limits = largest if isinstance(largest, Mapping) else {"norm": math.inf if largest is None else largest}
    limit = limits.get("norm", math.inf)
    if masks:
        norm = _scale(parameters, limit, masks)
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
    if "value" in limits:
        torch.nn.utils.clip_grad_value_(parameters, limits["value"], foreach=True)
    return norm


@torch.no_grad()
def _scale(parameters: Sequence[torch.nn.Parameter], limit: float, masks: Mapping[int, Tensor]) -> Tensor:
    """As torch's `clip_grad_norm_`, by the norm of what the masks leave."""
    found = [(p.grad, masks.get(id(p))) for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(g if mask is None else g * mask) for g, mask in found]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_([g for g, _ in found], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
