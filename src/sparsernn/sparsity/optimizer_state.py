"""Keeping optimizers in step with masks.

Momentum, Adam's moments and averages revive pruned weights unless they are zero where the mask is. What to do
with them is known from their shape alone: every state tensor of the parameter's shape holds one number for
each weight. Optimizers that keep anything else per weight offer a method of their own.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsernn.sparsity.projection import zero_absent


@runtime_checkable
class Rewirable(Protocol):
    """An optimizer that is told when a mask changes."""

    def rewired(self, parameter: nn.Parameter, mask: Tensor, grown: Tensor) -> None:
        """`mask` is the new mask, `grown` is True where a weight is newly grown."""


@runtime_checkable
class PerWeight(Protocol):
    """An optimizer that knows which of its buffers a step may have made nonzero where a weight is absent."""

    def per_weight_buffers(self, parameter: nn.Parameter) -> list[Tensor]:
        """Buffers of the parameter's shape that are to be zeroed at absent positions after every step."""


def buffers(optimizer: Optimizer | None, parameter: nn.Parameter) -> list[Tensor]:
    """The state tensors that hold one number for each weight of the parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.Adam([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> len(buffers(optimizer, weight))
        2
    """
    if optimizer is None:
        return []
    state: Mapping[str, object] = optimizer.state.get(parameter, {})
    return [v for v in state.values() if isinstance(v, Tensor) and v.shape == parameter.shape]


def project(
    optimizer: Optimizer | None,
    parameters: list[nn.Parameter],
    masks: list[Tensor],
    *,
    with_buffers: bool = True,
) -> None:
    """Zero weights, and the optimizer's buffers, where they are absent. Call it after every optimizer step.

    Args:
        optimizer: None if only weights are to be zeroed.
        parameters: the masked parameters.
        masks: their masks, in the same order.
        with_buffers: False leaves the buffers alone, except those that the optimizer names itself.
    """
    special: object = optimizer  # torch's type has no such method; members of this library may
    for parameter, mask in zip(parameters, masks, strict=True):
        if isinstance(special, PerWeight):
            held = special.per_weight_buffers(parameter)
        else:
            held = buffers(optimizer, parameter) if with_buffers else []
        zero_absent([parameter, *held], mask)


@torch.no_grad()
def rewired(optimizer: Optimizer | None, parameter: nn.Parameter, mask: Tensor, grown: Tensor) -> None:
    """After a mask update: zero the optimizer's buffers at absent and at newly grown positions.

    An optimizer with a method `rewired(parameter, mask, grown)` is called instead.

    Args:
        optimizer: None if there is nothing to do.
        parameter: the masked parameter.
        mask: its new mask.
        grown: bool, True where a weight was grown in this update.
    """
    special: object = optimizer
    if isinstance(special, Rewirable):
        special.rewired(parameter, mask, grown)
    elif held := buffers(optimizer, parameter):
        zero_absent(held, mask & ~grown)
