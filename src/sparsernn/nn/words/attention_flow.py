"""Attention between a context and a question, in both directions."""

import torch
from torch import Tensor, nn

from sparsernn.nn.glorot import glorot_linear

NEVER = -1e30
"""Score of what is beyond a text's end: its probability is exactly 0 beside any other score."""


class AttentionFlow(nn.Module):
    """What each context word finds in the question, and what the question finds in the context.

        s_tj = w . [h_t; u_j; h_t * u_j] + b
        a_t = sum_j softmax_j(s_tj) u_j,   c = sum_t softmax_t(max_j s_tj) h_t
        p_t = [h_t; a_t; h_t * a_t; h_t * c]

    Args:
        size: D, numbers per word of both texts.

    Parameters: `score`, linear from 3D to 1.

    Example:
        >>> h, u = torch.randn(7, 2, 6), torch.randn(4, 2, 6)
        >>> everywhere = torch.ones(2, 7, dtype=torch.bool)
        >>> AttentionFlow(6)(h, u, everywhere, everywhere[:, :4]).shape
        torch.Size([7, 2, 24])

    Source: M. Seo, A. Kembhavi, A. Farhadi and H. Hajishirzi, "Bidirectional Attention Flow for Machine
    Comprehension", 2016, arXiv:1611.01603.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.score = glorot_linear(3 * size, 1)

    def scores(self, h: Tensor, u: Tensor) -> Tensor:
        """h (B, T, D), u (B, J, D) -> s (B, T, J), without a tensor of size T * J * D."""
        context, question, both = self.score.weight.chunk(3, dim=1)
        own = h @ context.T + (u @ question.T).transpose(1, 2)
        return own + (h * both) @ u.transpose(1, 2) + self.score.bias

    def forward(self, h: Tensor, u: Tensor, context: Tensor, question: Tensor) -> Tensor:
        """Let two texts look at each other.

        Args:
            h: words of the context, (T, B, D).
            u: words of the question, (J, B, D).
            context: bool (B, T), True inside the context.
            question: bool (B, J), True inside the question.

        Returns:
            (T, B, 4D); what is beyond a text's end reaches nothing inside.
        """
        h, u = h.transpose(0, 1), u.transpose(0, 1)
        s = self.scores(h, u).masked_fill(~question.unsqueeze(1), NEVER)
        found = s.softmax(2) @ u
        weights = s.amax(2).masked_fill(~context, NEVER).softmax(1)
        summary = weights.unsqueeze(1) @ h
        return torch.cat([h, found, h * found, h * summary], 2).transpose(0, 1)
