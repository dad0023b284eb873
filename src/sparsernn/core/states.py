"""Recurrent states: a tensor, tuples of such in any nesting, or None where there is none."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

from torch import Tensor

State: TypeAlias = "Tensor | tuple[State, ...] | None"
"""What is carried from window to window: a tensor (B, .), nested tuples of them, or nothing."""


Parts = TypeVar("Parts", bound="tuple[object, ...] | list[object]")


def tensors(state: object) -> Iterator[Tensor]:
    """The tensors of a state, in order.

    >>> import torch
    >>> [t.item() for t in tensors((torch.tensor(1), (torch.tensor(2), None, torch.tensor(3))))]
    [1, 2, 3]
    """
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple | list):
        for part in state:
            yield from tensors(part)


def detached(state: State) -> State:
    """The same state without the graph that computed it.

    >>> import torch
    >>> h, (c,) = detached((torch.ones(1, requires_grad=True) * 2, (torch.ones(1),)))
    >>> h.requires_grad, detached(None)
    (False, None)
    """
    return rebuilt(state, (tensor.detach() for tensor in tensors(state)))


def alike(old: Parts, parts: Iterable[object]) -> Parts:
    """A list or a tuple, named ones too, of other members.

    >>> alike((1, 2), [3]), alike([1], (2, 3))
    ((3,), [2, 3])
    """
    kind: Callable[..., Parts] = type(old)
    return kind(*parts) if hasattr(old, "_fields") else kind(parts)


def rebuilt(like: State, flat: Iterator[Tensor]) -> State:
    """A state nested as `like`, of the tensors of `flat` in their order.

    >>> import torch
    >>> one = torch.ones(1)
    >>> [t.item() for t in tensors(rebuilt((one, None, (one,)), (k * one for k in (4, 5))))]
    [4.0, 5.0]
    """
    if like is None:
        return None
    return next(flat) if isinstance(like, Tensor) else tuple(rebuilt(part, flat) for part in like)
