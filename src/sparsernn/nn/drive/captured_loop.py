"""Training windows of a layer, captured in CUDA graphs: all launches of a loop sent to the card at once.

What is captured is the loop alone, as a function of its input, state, weights and masks, which torch copies to where
the graph reads them. So weights may be masked, averaged or lie elsewhere from window to window, and no random number
is drawn inside. A graph has one place for all that it keeps between forth and back, and results leave it as copies.

A layer that has met windows of more than a few lengths, as random windows are, lets them be filled up with steps that
hold the state, so that a few lengths do for all.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.errors import InputError
from sparsernn.core.precision import rounding
from sparsernn.nn.drive.cell import CellState, Stage
from sparsernn.nn.drive.scan import Outcome, scan

MOST = 8
"""Graphs that a layer keeps: each has its own copy of the weights and room for all that a window keeps."""
AFTER = 3
"""Times that a window of one shape has come before it is captured, so that rare lengths have none."""

FEW = 2
"""Lengths of windows that are captured as they are: the usual one, and that of what is left of an epoch."""
APART = 8
"""Of more than those, each is filled up to a multiple of this."""

Loop = Callable[..., tuple[Tensor, ...]]


class _Use:
    """A window that was forwarded through a graph, and may yet go back."""


class _Graph:
    """A captured loop, and the window that it holds."""

    def __init__(self, loop: Loop, tensors: Sequence[Tensor]) -> None:
        samples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
        self.call: Loop = torch.cuda.make_graphed_callables(loop, samples)  # type: ignore[assignment]
        self.held: weakref.ref[_Use] | None = None

    def is_free(self) -> bool:
        """Whether no window is still to go back."""
        return self.held is None or self.held() is None


class _Given(torch.autograd.Function):
    """Lets gradients out of a graph as copies: a parameter may keep what it is given."""

    @staticmethod
    def forward(ctx: Context, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if d is None else d.clone() for d in gradients)


def _given(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors as a graph is given them."""
    copied = iter(_Given.apply(*(t for t in tensors if t.requires_grad)))  # type: ignore[no-untyped-call]
    return [next(copied) if t.requires_grad else t for t in tensors]


class _Left(torch.autograd.Function):
    """Lets results out of a graph as copies, and watches that it still holds their window when they go back."""

    @staticmethod
    def forward(ctx: Context, graph: _Graph, use: _Use, *results: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.use, ctx.held = graph, use, weakref.ref(use)
        graph.held = ctx.held
        return tuple(result.clone() for result in results)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.graph.held is not ctx.held:
            raise InputError(
                "gradients of a captured window were asked for again after another window had taken its place; "
                "ask before, or let the layer's `captured` be False."
            )
        ctx.use = None
        return None, None, *gradients


class CapturedLoops:
    """The graphs of one layer.

    Example:
        >>> from sparsernn.nn import RHN
        >>> stages = RHN(3, 5).cell.stages(2)
        >>> CapturedLoops().scan(stages, torch.zeros(7, 2, 10), (torch.zeros(2, 5),))
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: captured is True, but the layer reads on 'cpu'; CUDA graphs are for CUDA ...
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, _Graph] = {}
        self._seen: Counter[Hashable] = Counter()
        self._lengths: set[int] = set()

    def __getstate__(self) -> dict[str, object]:
        """A copy captures for itself."""
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._graphs, self._seen, self._lengths = {}, Counter(), set()

    def scan(self, stages: Sequence[Stage], u: Tensor, state: CellState) -> Outcome:
        """As `sparsernn.nn.drive.scan.scan`: through a graph where there is one, or else the plain loop.

        The plain loop takes windows that want no gradients, whose weights are multiplied sparsely or rounded, that
        have not come often enough, for whose shape there is no room, and those between whose forward and backward
        pass the graph is asked for again.

        Args:
            stages: of one time step, fixed for the window.
            u: (T, B, G of the first stage), on a CUDA device.
            state: before the first step.

        Raises:
            InputError: on another device.
        """
        refuse_unless_on_card(u)
        self._lengths.add(len(u))
        wide, valid = filled_up(u) if len(self._lengths) > FEW else (u, None)
        loop, tensors = _as_function(stages, wide, state, valid)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if not learns or rounding(u.device) is not None or any(s.sparse is not None for s in stages):
            return scan(stages, u, state)
        graph = self._graph(_form(stages, tensors), loop, tensors)
        if graph is None or not graph.is_free():
            return scan(stages, u, state)
        use = _Use()
        results = graph.call(*_given(tensors))
        y, *last = _Left.apply(graph, use, *results)  # type: ignore[no-untyped-call]
        return y[: len(u)], tuple(last)

    def _graph(self, form: Hashable, loop: Loop, tensors: Sequence[Tensor]) -> _Graph | None:
        if form not in self._graphs:
            if len(self._graphs) >= MOST:
                return None
            self._seen[form] += 1
            if self._seen[form] < AFTER:
                return None
            self._graphs[form] = _Graph(loop, tensors)
        return self._graphs[form]


def refuse_unless_on_card(u: Tensor) -> None:
    """Raise an error in one sentence where nothing can be captured.

    Raises:
        InputError: u is not on a CUDA device.

    Example:
        >>> refuse_unless_on_card(torch.zeros(1))
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: captured is True, but the layer reads on 'cpu'; CUDA graphs are for CUDA ...
    """
    if not u.is_cuda:
        raise InputError(
            f"captured is True, but the layer reads on '{u.device}'; CUDA graphs are for CUDA devices, "
            "so let it be False here."
        )


def filled_up(u: Tensor) -> tuple[Tensor, Tensor]:
    """A window (T, B, G) with more steps, and which of them are its own, bool (T', B, 1).

    Example:
        >>> wide, valid = filled_up(torch.ones(5, 2, 3))
        >>> wide.shape, valid[:, 0, 0].sum()
        (torch.Size([8, 2, 3]), tensor(5))
    """
    steps, more = len(u), -len(u) % APART
    valid = torch.arange(steps + more, device=u.device) < steps
    return functional.pad(u, (0, 0, 0, 0, 0, more)), valid.view(-1, 1, 1).repeat(1, u.shape[1], 1)


def _parts(stage: Stage) -> tuple[Tensor | None, ...]:
    return (stage.weight, stage.bias, stage.mask, *stage.rule.parameters)


def _as_function(
    stages: Sequence[Stage], u: Tensor, state: CellState, valid: Tensor | None
) -> tuple[Loop, list[Tensor]]:
    """The loop as a function of tensors alone, and the tensors; one that several stages have is one of them."""
    ahead = [u, *state] if valid is None else [u, *state, valid]
    parts, tensors = 1 + len(state), list(ahead)
    places: dict[int, int] = {}
    for part in (part for stage in stages for part in _parts(stage) if part is not None):
        if id(part) not in places:
            places[id(part)] = len(tensors)
            tensors.append(part)
    numbers = [[None if part is None else places[id(part)] for part in _parts(stage)] for stage in stages]
    forms = [(replace(stage, mask=None), own) for stage, own in zip(stages, numbers, strict=True)]

    def loop(*given: Tensor) -> tuple[Tensor, ...]:
        made = [_filled(stage, [None if n is None else given[n] for n in own]) for stage, own in forms]
        y, last = scan(made, given[0], given[1:parts], *given[parts : len(ahead)])
        return (y, *last)

    return loop, tensors


def _filled(stage: Stage, parts: list[Tensor | None]) -> Stage:
    weight, bias, mask, *of_rule = parts
    rule = copy.copy(stage.rule)
    if of_rule:
        rule.parameters = tuple(p for p in of_rule if p is not None)
    assert weight is not None
    return replace(stage, weight=weight, bias=bias, mask=mask, rule=rule)


def _form(stages: Sequence[Stage], tensors: Sequence[Tensor]) -> Hashable:
    """What a graph is made for."""
    absent = tuple((type(s.rule), s.bias is None, s.mask is None, s.beside) for s in stages)
    return absent, tuple((t.shape, t.dtype, t.device, t.requires_grad) for t in tensors)
