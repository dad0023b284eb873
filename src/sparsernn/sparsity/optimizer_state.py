"""Keeping optimizers in step with masks.

Momentum, Adam's moments and averages revive pruned weights unless they are zero where the mask is. What to do
with them is known from their shape alone: every state tensor of the parameter's shape holds one number for
each weight. Optimizers that keep anything else per weight offer a method of their own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsernn.core.errors import InputError
from sparsernn.sparsity.projection import zero_absent

Optimizers = Optimizer | Sequence[Optimizer] | None
"""One optimizer, several that share a model's parameters, or none."""


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


def optimizers_of(given: Optimizers) -> tuple[Optimizer, ...]:
    """What was given, as a tuple; of one that is wrapped, the one inside, whose steps are the ones that happen.

    Raises:
        InputError: something else than optimizers, or one twice.

    Example:
        >>> optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
        >>> class Wrapper:
        ...     def __init__(self, optimizer):
        ...         self.optimizer = optimizer
        >>> optimizers_of(Wrapper(optimizer)) == optimizers_of([optimizer]) == (optimizer,)
        True
    """
    if given is None:
        return ()
    several = isinstance(given, Iterable) and not isinstance(given, Optimizer | str)
    listed = cast(Iterable[object], given) if several else (given,)
    members = tuple(map(_inside, listed))
    if len({id(member) for member in members}) < len(members):
        raise InputError("an optimizer is given twice; give each once.")
    return members


def _inside(given: object) -> Optimizer:
    """The optimizer that hooks can be put on: `given`, or what it keeps as `optimizer`."""
    found, seen = given, list[object]()
    while not (isinstance(found, Optimizer) and _calls_hooks(found)):
        seen.append(found)
        found = getattr(found, "optimizer", None)
        if found is None or any(found is other for other in seen):
            shown = repr(given) if isinstance(given, str | int | float) else f"a {type(given).__name__}"
            raise InputError(f"the optimizer is {shown}; it must be a torch optimizer, or a list of them.")
    return found


def _calls_hooks(optimizer: Optimizer) -> bool:
    """Whether torch has set it up; wrappers that only look like optimizers leave that out."""
    return hasattr(type(optimizer).step, "hooked") and hasattr(optimizer, "_optimizer_step_pre_hooks")


def check_owned(given: Optimizers, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse optimizers that do not hold what is to be sparse: it would never be kept or brought to 0.

    Args:
        given: None is fine: the loop then calls `step()` itself.
        parameters: name -> parameter.

    Raises:
        InputError: naming the first one that nobody holds.

    Example:
        >>> layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> check_owned(torch.optim.Adam(other.parameters()), dict(layer.named_parameters()))
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: the optimizer (Adam) does not hold 'weight', which is to be sparse; ...
    """
    members = optimizers_of(given)
    if not members:
        return
    held = {id(p) for member in members for group in member.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        if id(parameter) not in held:
            names = " or ".join(type(member).__name__ for member in members)
            raise InputError(
                f"the optimizer ({names}) does not hold '{name}', which is to be sparse; give the optimizers of all "
                "the model's parameters, or exclude the tensor."
            )


def buffers(given: Optimizers, parameter: nn.Parameter) -> list[Tensor]:
    """The state tensors that hold one number for each weight of the parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.Adam([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> len(buffers(optimizer, weight))
        2
    """
    return [tensor for member in optimizers_of(given) for tensor in _per_weight(member, parameter).values()]


def transform_buffers(
    given: Optimizers,
    parameter: nn.Parameter,
    change: Callable[[Tensor], Tensor],
    shape: Sequence[int] | None = None,
) -> None:
    """Put something else in place of each state tensor that holds one number for each weight.

    Args:
        given: the optimizers; None: there are none.
        parameter: the weights.
        change: of a state tensor, what takes its place.
        shape: of those state tensors; None: that of the parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.Rprop([weight], lr=0.25)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> transform_buffers(optimizer, weight, lambda buffer: buffer[:1])
        >>> optimizer.state[weight]["step_size"]
        tensor([0.2500])
    """
    for optimizer in optimizers_of(given):
        for name, tensor in _per_weight(optimizer, parameter, shape).items():
            optimizer.state[parameter][name] = change(tensor)


def _per_weight(
    optimizer: Optimizer, parameter: nn.Parameter, shape: Sequence[int] | None = None
) -> dict[str, Tensor]:
    state: Mapping[str, object] = optimizer.state.get(parameter, {})
    wanted = parameter.shape if shape is None else torch.Size(shape)
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == wanted and v.ndim}


def project(
    given: Optimizers,
    parameters: Sequence[nn.Parameter],
    masks: Sequence[Tensor],
    *,
    with_buffers: bool = True,
) -> None:
    """Zero weights, and the optimizers' buffers, where they are absent. Call it after every optimizer step.

    Args:
        given: None if only weights are to be zeroed.
        parameters: the masked parameters.
        masks: their masks, in the same order.
        with_buffers: False leaves the buffers alone, except those that an optimizer names itself.
    """
    members = optimizers_of(given)
    for parameter, mask in zip(parameters, masks, strict=True):
        held = [tensor for member in members for tensor in _to_zero(member, parameter, with_buffers)]
        zero_absent([parameter, *held], mask)


def _to_zero(optimizer: Optimizer, parameter: nn.Parameter, with_buffers: bool) -> Iterable[Tensor]:
    special: object = optimizer  # torch's type has no such method; members of this library may
    if isinstance(special, PerWeight):
        return special.per_weight_buffers(parameter)
    return _per_weight(optimizer, parameter).values() if with_buffers else ()


@torch.no_grad()
def rewired(given: Optimizers, parameter: nn.Parameter, mask: Tensor, grown: Tensor) -> None:
    """After a mask update: the optimizers' buffers are 0 at absent positions and begin anew at grown ones.

    What a buffer begins with is asked of the optimizer (see `beginnings`): 0 for most, the step size for Rprop. An
    optimizer with a method `rewired(parameter, mask, grown)` is called instead.

    Args:
        given: None if there is nothing to do.
        parameter: the masked parameter.
        mask: its new mask.
        grown: bool, True where a weight was grown in this update.
    """
    for optimizer in optimizers_of(given):
        special: object = optimizer
        if isinstance(special, Rewirable):
            special.rewired(parameter, mask, grown)
        elif held := _per_weight(optimizer, parameter):
            zero_absent(held.values(), mask & ~grown)
            first = beginnings(optimizer, parameter) if bool(grown.any()) else {}
            for name, tensor in held.items():
                if first.get(name, 0.0) != 0.0:
                    tensor[grown] = first[name]


NOT_ASKED = ("params", "fused", "foreign", "capturable")
"""Settings that choose an implementation, not what it computes; some refuse a lone weight on the CPU."""


def beginnings(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, float]:
    """What an optimizer's state of a weight begins with, by the state's name.

    It is looked at: an optimizer of the same kind and settings takes a step on one weight of 0 with a gradient of 0.
    A kind that cannot be built that way begins with 0.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> beginnings(torch.optim.Rprop([weight], lr=0.25), weight)
        {'prev': 0.0, 'step_size': 0.25}
    """
    group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)
    if group is None:
        return {}
    known = inspect.signature(type(optimizer).__init__).parameters
    settings = {k: v for k, v in group.items() if k in known and k not in NOT_ASKED}
    probe = nn.Parameter(torch.zeros(1, dtype=parameter.dtype))
    probe.grad = torch.zeros_like(probe)
    try:
        with torch.enable_grad():
            twin = type(optimizer)([probe], **settings)
            twin.step()
    except Exception:  # somebody else's optimizer, with arguments that nobody here knows
        return {}
    return {name: float(value) for name, value in _per_weight(twin, probe).items()}
