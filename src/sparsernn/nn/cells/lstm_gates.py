"""The rule of the LSTM between two recurrent products, for the loop that drives products of one's own choice."""

import torch
from torch import Tensor

from sparsernn.kernels.rule_kernels import rule_kernels
from sparsernn.nn.drive.cell import CellState, Kept, Rule


class LSTMGates(Rule):
    """c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c') for pre (B, 4H) in the order i, f, g, o.

    Example:
        >>> h, c = LSTMGates().equations(torch.zeros(1, 4), (torch.zeros(1, 1), torch.ones(1, 1)))
        >>> c.item()
        0.5
    """

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        i, f, g, o = pre.chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`."""
        before = state[1]
        if kernels := rule_kernels(pre):
            c = kernels.gates_forward(pre, before.contiguous(), out)
            return (out, c), (pre, before.contiguous(), c)
        i, f, g, o = pre.chunk(4, -1)
        width = i.shape[1]
        pre[:, : 2 * width].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.addcmul(f * before, i, g)
        torch.mul(o, c.tanh(), out=out)
        return (out, c), (pre, before, c)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        opened, before, c = kept
        d_h, d_c = gradient
        if d_pre.is_contiguous() and (kernels := rule_kernels(opened)):
            d_before = kernels.gates_backward(d_h.contiguous(), d_c.contiguous(), opened, before, c, d_pre)
            return None, (d_before,)
        i, f, g, o = opened.chunk(4, -1)
        d_i, d_f, d_g, d_o = d_pre.chunk(4, -1)
        tanh_c = c.tanh()
        through = d_c + d_h * o * (1 - tanh_c * tanh_c)
        torch.ops.aten.sigmoid_backward.grad_input(through * g, i, grad_input=d_i)
        torch.ops.aten.sigmoid_backward.grad_input(through * before, f, grad_input=d_f)
        torch.ops.aten.tanh_backward.grad_input(through * i, g, grad_input=d_g)
        torch.ops.aten.sigmoid_backward.grad_input(d_h * tanh_c, o, grad_input=d_o)
        return None, (through * f,)
