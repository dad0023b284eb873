"""Hooks on optimizers, through which a sparsifier works in anybody's training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsernn.core.errors import InputError
from sparsernn.core.peers import processes_met
from sparsernn.core.plain import Json

_ATTACHED: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Attachment]] = weakref.WeakKeyDictionary()


class Hooked(Protocol):
    """What an attachment calls of a sparsifier; `Sparsifier` says what each of these is."""

    def dense_gradients(self) -> Sequence[Tensor]:
        """Gradients besides those in `.grad` that it is going to look at."""

    @property
    def in_zeros(self) -> bool:
        """Whether it removes weights by making them zeros, and has no masks."""

    def touches(self) -> list[nn.Parameter]:
        """The parameters whose weights it removes or shrinks."""

    def before_step(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Before an optimizer's step, or after each evaluation of its closure."""

    def forget_gradients(self) -> None:
        """Where gradients are thrown away."""

    def value(self) -> float:
        """What a penalty adds to the loss by its gradients alone."""

    def after_step(self) -> object:
        """After the step of the first optimizer."""

    def project(self) -> None:
        """After the step of another one."""


class Attachment:
    """A sparsifier at work on its optimizers, until `remove`.

    Before a step it lets penalties add their gradient, in a closure after each evaluation; after the first
    optimizer's step it counts and updates, after every optimizer's it writes zeros. A step that a gradient scaler
    leaves out, also inside a fused optimizer, is not counted.

    Copied or unpickled together with its optimizers it hooks itself on the new ones; optimizers alone forget their
    hooks when they are copied, as torch has it.

    Args:
        sparsifier: what is called.
        optimizers: those that hold its weights, the one whose steps count first.

    Raises:
        InputError: one of them has a sparsifier already that works on the same weights in the same way.
    """

    def __init__(self, sparsifier: Hooked, optimizers: tuple[Optimizer, ...]) -> None:
        for optimizer in optimizers:
            _check_free(sparsifier, optimizer)
        self.sparsifier, self.optimizers = sparsifier, optimizers
        self._hook()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        for optimizer in self.optimizers:
            _ATTACHED[optimizer].discard(self)

    def _hook(self) -> None:
        self._handles = []
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))
            _ATTACHED.setdefault(optimizer, weakref.WeakSet()).add(self)

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        check_gradients(self.sparsifier.dense_gradients())
        itself, *given = args  # torch hands the optimizer over as the first argument
        closure = given[0] if given else kwargs.get("closure")
        if closure is None:
            self.sparsifier.before_step(optimizer, _scale(optimizer))
            return None
        wrapped = self._watching(optimizer, closure)
        return ((itself, wrapped, *given[1:]), kwargs) if given else (args, {**kwargs, "closure": wrapped})

    def _watching(self, optimizer: Optimizer, closure: Callable[[], float]) -> Callable[[], float]:
        """The closure, and then the penalty's gradient; its value too where a line search compares losses."""
        searches = any(group.get("line_search_fn") for group in optimizer.param_groups)

        def evaluate() -> float:
            self.sparsifier.forget_gradients()
            loss = closure()
            self.sparsifier.before_step(optimizer, _scale(optimizer))
            return loss + self.sparsifier.value() if searches and loss is not None else loss

        return evaluate

    def _after(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if _was_skipped(optimizer):
            self.sparsifier.forget_gradients()
        elif optimizer is self.optimizers[0]:
            self.sparsifier.after_step()
        else:
            self.sparsifier.project()

    def __getstate__(self) -> dict[str, Json]:
        return {"sparsifier": self.sparsifier, "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Json]) -> None:
        self.__dict__.update(state)
        self._hook()


def check_gradients(left: Sequence[Tensor]) -> None:
    """What layers with sparse products have left for growth is of one process alone, and masks would come apart.

    Args:
        left: gradients besides those in `.grad`, of which alone DistributedDataParallel knows.

    Raises:
        InputError: there are some, and other processes.

    Example:
        >>> check_gradients([])
    """
    if left and processes_met() > 1:
        raise InputError(
            f"{processes_met()} processes train, and growth looks at gradients that a layer with product: sparse (or "
            "auto) computes beside .grad, which DistributedDataParallel does not average, so that each process would "
            "get masks of its own; let the layer's product be dense, or growth be random."
        )


def _check_free(sparsifier: Hooked, optimizer: Optimizer) -> None:
    """Masks on top of masks would hide each other's zeros; a penalty beside masks is fine."""
    mine = {id(parameter) for parameter in sparsifier.touches()}
    for other in _ATTACHED.get(optimizer, ()):
        alike = other.sparsifier.in_zeros == sparsifier.in_zeros
        if alike and mine & {id(parameter) for parameter in other.sparsifier.touches()}:
            raise InputError(
                f"this {type(optimizer).__name__} has a sparsifier for the same weights already; call its detach() "
                "first, or choose other weights with include and exclude."
            )


def _scale(optimizer: Optimizer) -> float:
    """What a gradient scaler has multiplied the gradients by, and a fused optimizer will divide them by."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer left its step out because a gradient was not finite."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
