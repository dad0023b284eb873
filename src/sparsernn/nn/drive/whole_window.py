"""Windows that run in one launch on a CUDA device, for cells whose recurrent weight is small enough.

It is a window of `sparsernn.nn.drive.scan`: the same tape of fed-back states and the same gradients of
pre-activations come out of it, from which the driver takes those of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparsernn.kernels import ordered_triton, window_triton
from sparsernn.nn.drive import loop_choice
from sparsernn.nn.drive.cell import CellState, Stage

WAYS = ("step by step", "in one launch")

ORDERED = "ordered"
"""`Rule.whole` of the one rule with a kernel of its own, by the name of its `chunks`."""


class WholeWindow(Protocol):
    """The stages of a window as a kernel takes them."""

    def forward(self, u: Tensor, state: CellState, fed: Tensor, keep: bool) -> tuple[CellState, CellState]:
        """Fill fed (T K + 1, B, H) from its first entry on.

        Returns:
            The other tensors of the last state, and what `backward` needs besides; () where it is not kept.
        """

    def backward(
        self, gradients: tuple[Tensor, ...], fed: Tensor, kept: CellState
    ) -> tuple[Tensor, CellState]:
        """Gradients of outputs and of the last state -> those of pre (K, T, B, G) and of the first state."""


class RuleWindow:
    """One state, and one of the rules of `sparsernn.kernels.window_triton` after every product; see `WholeWindow`.

    Args:
        stages: of one time step; `suits` accepts them.

    Example:
        >>> from sparsernn.nn import RHN
        >>> RuleWindow(RHN(3, 5, depth=4).cell.stages(2)).kind
        'highway'
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        first = stages[0]
        self.kind, self.mask = str(first.rule.whole), first.mask
        self.weight = torch.stack([stage.weight.detach() for stage in stages])
        if first.rule.parameters:
            self.bias: Tensor | None = first.rule.parameters[0].detach()
        elif len(stages) > 1:
            none = self.weight.new_zeros(first.rows)
            self.bias = torch.stack([none if s.bias is None else s.bias.detach() for s in stages])
        else:
            self.bias = None

    def forward(self, u: Tensor, state: CellState, fed: Tensor, keep: bool) -> tuple[CellState, CellState]:
        """See `WholeWindow`."""
        opened = window_triton.forward(self.kind, u.detach(), self.weight, self.bias, self.mask, fed, keep)
        return (), () if opened is None else (opened,)

    def backward(
        self, gradients: tuple[Tensor, ...], fed: Tensor, kept: CellState
    ) -> tuple[Tensor, CellState]:
        """See `WholeWindow`."""
        d_y, d_last = gradients
        opened = kept[0] if kept else None
        pre, start = window_triton.backward(self.kind, (d_y, d_last), self.weight, self.mask, fed, opened)
        return pre, (start,)


class OrderedWindow:
    """The ordered-neurons LSTM, by `sparsernn.kernels.ordered_triton`; see `WholeWindow`.

    Args:
        stages: the one of its time step; `suits` accepts it.

    Example:
        >>> from sparsernn.nn import ONLSTM
        >>> OrderedWindow(ONLSTM(3, 6, chunk_size=2).cell.stages(2)).chunks
        3
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.weight, self.chunks = stages[0].weight.detach(), chunks_of(stages[0])

    def forward(self, u: Tensor, state: CellState, fed: Tensor, keep: bool) -> tuple[CellState, CellState]:
        """See `WholeWindow`."""
        cells = torch.empty_like(fed)
        cells[0] = state[1]
        opened = ordered_triton.forward(self.chunks, u.detach(), self.weight, fed, cells, keep)
        return (cells[-1],), () if opened is None else (cells, opened)

    def backward(
        self, gradients: tuple[Tensor, ...], fed: Tensor, kept: CellState
    ) -> tuple[Tensor, CellState]:
        """See `WholeWindow`."""
        d_y, *d_last = gradients
        pre, start = ordered_triton.backward(self.chunks, d_y, tuple(d_last), self.weight, *kept)
        return pre.unsqueeze(0), start


def chunks_of(stage: Stage) -> int:
    """K, where a stage has the rule of the ordered-neurons LSTM.

    Example:
        >>> from sparsernn.nn import ONLSTM
        >>> chunks_of(ONLSTM(3, 6, chunk_size=2).cell.stages(2)[0])
        3
    """
    return (stage.rows - 4 * stage.weight.shape[-1]) // 2


def window_of(stages: Sequence[Stage]) -> WholeWindow:
    """The window of stages that `suits` accepts.

    Example:
        >>> from sparsernn.nn import RHN
        >>> type(window_of(RHN(3, 5).cell.stages(2))).__name__
        'RuleWindow'
    """
    return OrderedWindow(stages) if stages[0].rule.whole == ORDERED else RuleWindow(stages)


def suits(stages: Sequence[Stage], u: Tensor, state: CellState) -> bool:
    """Whether a window has a kernel: a state as it wants it, one rule after all products, dense weights that fit.

    Example:
        >>> from sparsernn.nn import RHN
        >>> cell = RHN(3, 5).cell
        >>> suits(cell.stages(2), torch.zeros(7, 2, 10), (torch.zeros(2, 5),))        # the CPU has another
        False
    """
    first = stages[0]
    plain = all(s.sparse is None and not s.beside and s.weight.dim() == 2 for s in stages)
    if first.rule.whole is None or not plain:
        return False
    if first.rule.whole == ORDERED:
        single = len(stages) == 1 and first.mask is None
        return single and ordered_triton.takes(chunks_of(first), u, first.weight, state)
    alike = all(type(s.rule) is type(first.rule) and s.mask is first.mask for s in stages)
    alike = alike and len(state) == 1 and (len(stages) == 1 or not first.rule.parameters)
    of_one_type = all(t.dtype == u.dtype for t in first.rule.parameters)
    weights = [stage.weight for stage in stages]
    return alike and of_one_type and window_triton.takes(first.rule.whole, u, weights, state[0])


def pays(
    stages: Sequence[Stage],
    u: Tensor,
    state: CellState,
    learns: bool,
    step_by_step: Callable[[], object],
) -> bool:
    """Whether one launch takes clearly less time than the loop over steps: measured, once for each kind of window.

    Args:
        stages: `suits` accepts them.
        u: (T, B, G).
        state: before the first step, tensors (B, H).
        learns: whether gradients come back.
        step_by_step: the work of the loop, and back where gradients do.
    """

    def in_one_launch() -> None:
        window = window_of(stages)
        fed = u.new_empty(len(u) * len(stages) + 1, *state[0].shape)
        fed[0] = state[0]
        _, kept = window.forward(u, state, fed, learns)
        if learns:
            d_last = [torch.zeros_like(part) for part in state]
            window.backward((torch.zeros_like(fed[: len(u)]), *d_last), fed, kept)

    first = stages[0]
    kind = (
        first.rule.whole,
        first.weight.shape,
        len(stages),
        first.mask is None,
        u.shape[1:],
        u.dtype,
        learns,
    )
    with torch.no_grad():
        ways = dict(zip(WAYS, (step_by_step, in_one_launch), strict=True))
        return loop_choice.fastest(kind, len(u), ways, u.device) == WAYS[1]
