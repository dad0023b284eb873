"""Heads: from hidden vectors to the probability of the next word.

Contract: `nll(y, target) -> (N,)` negative log-likelihood per token in nats, `log_prob(y) -> (..., V)`, and
`inputs()`, the slices through which a head reads feature k.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsernn.units import Slice

EVAL_ROWS = 512
"""Rows of logits held at a time in evaluation: 20 MB at V = 10,000, whatever the window is."""


class _SoftmaxNLL(torch.autograd.Function):
    """-log softmax(x W^T + b) at the target, with one (N, V) buffer where autograd would hold three.

    With P the probabilities and g the incoming gradient per row, the gradient of the logits is
    diag(g) (P - onehot); it is never formed: P meets W and x in the two products, and the one-hot part is a
    gather of W and a scatter into dW.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        scores = torch.addmm(bias, x, weight.t())
        torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)
        nll = -scores.gather(1, target.unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(x, weight, scores.exp_(), target)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, probability, target = ctx.saved_tensors
        scaled = x * gradient.unsqueeze(1)
        d_x = torch.mm(probability, weight).sub_(weight[target]).mul_(gradient.unsqueeze(1))
        d_weight = torch.mm(probability.t(), scaled).index_add_(0, target, scaled, alpha=-1)
        d_bias = torch.mv(probability.t(), gradient).index_add_(0, target, gradient, alpha=-1)
        return d_x, d_weight, d_bias, None


class LinearHead(nn.Module):
    """softmax(W y + b).

    Args:
        vocabulary_size: V.
        input_size: H.
        tied: the embedding's weight (V, H) to decode with; None gives the head a weight of its own.

    Parameters: `weight` (V, H), U(-0.1, 0.1) unless tied; `bias` (V,), 0.

    Example:
        >>> head = LinearHead(10, 4)
        >>> y, target = torch.randn(3, 2, 4), torch.randint(10, (3, 2))
        >>> head.nll(y, target).shape
        torch.Size([6])

    Source of tying: O. Press and L. Wolf, "Using the Output Embedding to Improve Language Models", 2017,
    arXiv:1608.05859.
    """

    def __init__(self, vocabulary_size: int, input_size: int, tied: nn.Parameter | None = None) -> None:
        super().__init__()
        if tied is None:
            tied = nn.Parameter(torch.empty(vocabulary_size, input_size).uniform_(-0.1, 0.1))
        self.weight = tied
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""
        rows, wanted = y.reshape(-1, y.shape[-1]), target.reshape(-1)
        if torch.is_grad_enabled():
            nll: Tensor = _SoftmaxNLL.apply(rows, self.weight, self.bias, wanted)  # type: ignore[no-untyped-call]
            return nll
        pairs = zip(torch.split(rows, EVAL_ROWS), torch.split(wanted, EVAL_ROWS), strict=True)
        return torch.cat([functional.cross_entropy(self.logits(r), t, reduction="none") for r, t in pairs])

    def logits(self, y: Tensor) -> Tensor:
        """Scores before the softmax, (..., V)."""
        return functional.linear(y, self.weight, self.bias)

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        return self.logits(y).log_softmax(-1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the weight."""
        return (Slice(self, "weight", 1),)
