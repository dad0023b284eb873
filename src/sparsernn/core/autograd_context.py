"""What an autograd function writes down in its forward pass and reads in its backward pass."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor


class Context(Protocol):
    """The `ctx` that torch hands to the static methods of a `torch.autograd.Function`.

    Tensors go through `save_for_backward`; everything else is an attribute of the function's own choice.

    Attributes:
        saved_tensors: those given to `save_for_backward`, in their order.
        needs_input_grad: for every argument of `forward` but the context, whether its gradient is wanted.
    """

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """See above."""

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """See above."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs and outputs of the forward pass; None where an argument was left out."""

    def __getattr__(self, name: str) -> Any:
        """What the function has written down under a name of its own."""

    def __setattr__(self, name: str, value: object) -> None:
        """Write something down."""


Gradients = Tensor | tuple[Tensor | None, ...]


class _Last(torch.autograd.Function):
    """Gradients as they are, of which no gradient can be taken."""

    @staticmethod
    def forward(ctx: Context, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "a gradient that was taken with create_graph=True went through an operation of sparsernn that is "
            "differentiable once; use the same in operations of torch where you need its second derivative."
        )


def differentiable_once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """A backward pass without a graph, whose gradients say so where one is asked for.

    As `torch.autograd.function.once_differentiable`, which passes gradients on as constants where the one that comes
    in has no graph, as that of a mean has none: a penalty on them would do nothing, and say nothing.

    Args:
        backward: of a `torch.autograd.Function`.

    Raises:
        RuntimeError: in the second backward pass.
    """

    @wraps(backward)
    def once(ctx: Context, *incoming: Tensor) -> Gradients:
        with torch.no_grad():
            made = backward(ctx, *incoming)
        if not torch.is_grad_enabled():  # create_graph=False
            return made
        each = (made,) if isinstance(made, Tensor) else made
        found = iter(_Last.apply(*(t.detach().requires_grad_() for t in each if t is not None)))  # type: ignore[no-untyped-call]
        return tuple(None if t is None else next(found) for t in each)

    return once
