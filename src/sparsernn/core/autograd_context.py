"""What an autograd function writes down in its forward pass and reads in its backward pass."""

from typing import Any, Protocol

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
