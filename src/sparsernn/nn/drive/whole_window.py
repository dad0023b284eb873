"""Windows that run in one launch on a CUDA device, for cells whose recurrent weight is small enough.

It is a window of `sparsernn.nn.drive.scan`: the same tape of fed-back states and the same gradients of
pre-activations come out of it, from which the driver takes those of the weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsernn.kernels import window_triton
from sparsernn.nn.drive import loop_choice
from sparsernn.nn.drive.cell import CellState, Stage

WAYS = ("step by step", "in one launch")


class WholeWindow:
    """The stages of a window as `sparsernn.kernels.window_triton` takes them.

    Args:
        stages: of one time step; `suits` accepts them.

    Example:
        >>> from sparsernn.nn import RHN
        >>> WholeWindow(RHN(3, 5, depth=4).cell.stages(2)).kind
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

    def forward(self, u: Tensor, fed: Tensor, keep: bool) -> Tensor | None:
        """Fill fed (T K + 1, B, H) from its first entry on; what `backward` needs besides, where it is kept."""
        return window_triton.forward(self.kind, u.detach(), self.weight, self.bias, self.mask, fed, keep)

    def backward(
        self, gradients: tuple[Tensor, Tensor], fed: Tensor, opened: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gradients of outputs and last state -> those of pre (K, T, B, G) and of the first state."""
        return window_triton.backward(self.kind, gradients, self.weight, self.mask, fed, opened)


def suits(stages: Sequence[Stage], u: Tensor, state: CellState) -> bool:
    """Whether a window has a kernel: one state, the same rule after every product, dense weights that fit.

    Example:
        >>> from sparsernn.nn import RHN
        >>> cell = RHN(3, 5).cell
        >>> suits(cell.stages(2), torch.zeros(7, 2, 10), (torch.zeros(2, 5),))        # the CPU has another
        False
    """
    first = stages[0]
    if first.rule.whole is None or len(state) > 1:
        return False
    alike = all(type(s.rule) is type(first.rule) and s.mask is first.mask for s in stages)
    alike = alike and (len(stages) == 1 or not first.rule.parameters)
    plain = all(s.sparse is None and not s.beside and s.weight.dim() == 2 for s in stages)
    of_one_type = all(t.dtype == u.dtype for t in first.rule.parameters)
    weights = [stage.weight for stage in stages]
    return alike and plain and of_one_type and window_triton.takes(first.rule.whole, u, weights, state[0])


def pays(
    stages: Sequence[Stage], u: Tensor, start: Tensor, learns: bool, step_by_step: Callable[[], object]
) -> bool:
    """Whether one launch takes clearly less time than the loop over steps: measured, once for each kind of window.

    Args:
        stages: `suits` accepts them.
        u: (T, B, G).
        start: (B, H).
        learns: whether gradients come back.
        step_by_step: the work of the loop, and back where gradients do.
    """

    def in_one_launch() -> None:
        window = WholeWindow(stages)
        fed = u.new_empty(len(u) * len(stages) + 1, *start.shape)
        fed[0] = start
        opened = window.forward(u, fed, learns)
        if learns:
            window.backward((torch.zeros_like(fed[: len(u)]), torch.zeros_like(start)), fed, opened)

    first = stages[0]
    kind = (first.rule.whole, len(stages), first.mask is None, u.shape[1:], u.dtype, learns)
    with torch.no_grad():
        ways = dict(zip(WAYS, (step_by_step, in_one_launch), strict=True))
        return loop_choice.fastest(kind, len(u), ways, u.device) == WAYS[1]
