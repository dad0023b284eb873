"""The rule of the GRU between two recurrent products, for the loop that drives products of one's own choice."""

import torch
from torch import Tensor

from sparsernn.nn.drive.cell import CellState, Kept, Rule


class GRUGates(Rule):
    """n = tanh(read + sigmoid(r) fed), h' = (1 - sigmoid(z)) n + sigmoid(z) h for pre (B, 4H).

    Its blocks are r, z, fed and read: what the candidate has of h, which the reset gate scales, and of the input.

    Example:
        >>> (h,) = GRUGates().equations(torch.zeros(1, 4), (torch.ones(1, 1),))
        >>> h.item()
        0.5
    """

    def equations(self, pre: Tensor, state: CellState) -> CellState:
        """See `Rule`."""
        r, z, fed, read = pre.chunk(4, -1)
        n = (read + r.sigmoid() * fed).tanh()
        return (n + z.sigmoid() * (state[0] - n),)

    def forward(self, pre: Tensor, state: CellState, out: Tensor) -> tuple[CellState, Kept]:
        """See `Rule`; keeps pre with its gates opened and n for its input part, and h."""
        (h,) = state
        r, z, fed, n = pre.chunk(4, -1)
        pre[:, : 2 * h.shape[1]].sigmoid_()
        n.addcmul_(r, fed).tanh_()
        torch.addcmul(n, z, h - n, out=out)
        return (out,), (pre, h)

    def backward(
        self, gradient: CellState, kept: Kept, d_pre: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Rule`."""
        (d,), (opened, h) = gradient, kept
        r, z, fed, n = opened.chunk(4, -1)
        d_r, d_z, d_fed, d_read = d_pre.chunk(4, -1)
        passed = d * z
        torch.ops.aten.tanh_backward.grad_input(d - passed, n, grad_input=d_read)
        torch.mul(d_read, r, out=d_fed)
        torch.ops.aten.sigmoid_backward.grad_input(d_read * fed, r, grad_input=d_r)
        torch.ops.aten.sigmoid_backward.grad_input(d * (h - n), z, grad_input=d_z)
        return passed, ()
