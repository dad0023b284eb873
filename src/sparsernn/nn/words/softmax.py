"""The loss of a softmax over a vocabulary, with its gradient in the place of the scores."""

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.precision import exactly, rounding
from sparsernn.kernels import softmax_kernel
from sparsernn.nn.drive.sparse_weight import SparseWeight

EVAL_ROWS = 512
"""Rows of logits held at a time in evaluation: 20 MB at V = 10,000, whatever the window is."""

NOBODY = torch.iinfo(torch.int64).min
"""The target that torch leaves out; its own choice, -100, would count as a loss of 0 in a mean."""


def excess(scores: Tensor, bias: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(scores + bias) at the target, and its gradient by the scores: P - onehot.

    Args:
        scores: (N, V), whose memory may be used for the gradient.
        bias: (V,) or None.
        target: (N,) int64, in [0, V).

    Returns:
        nats (N,), in float32 at least, and the gradient (N, V), in the type of the scores. It is taken in float32 and
        rounded then: where the target is nearly certain, the difference of two rounded numbers would be noise.

    Example:
        >>> excess(torch.zeros(1, 4), None, torch.tensor([2]))[1]
        tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])
    """
    if softmax_kernel.takes(scores):
        return softmax_kernel.softmax(scores, bias, target, keep=True), scores
    rounded, scores = scores.dtype, scores if scores.dtype == torch.float64 else scores.float()
    scores = scores if bias is None else scores.add_(bias)
    torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)
    place = target.unsqueeze(1)
    nll = -scores.gather(1, place).squeeze(1)
    scores.exp_().scatter_add_(1, place, scores.new_full(place.shape, -1.0))
    return nll, scores.to(rounded)


class _SoftmaxNLL(torch.autograd.Function):
    """-log softmax(x W^T + b) at the target, with one (N, V) buffer where autograd would hold three.

    With g the incoming gradient per row, the gradient of the logits is diag(g) (P - onehot); it is never formed:
    P - onehot meets W and x in the two products. With `sparse`, products and dW are of the existing weights only.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sparse: SparseWeight | None
    ) -> Tensor:
        ctx.sparse = sparse
        if sparse is None:
            nll, surplus = excess(torch.mm(x, weight.t()), bias, target)
        else:
            nll, surplus = excess(sparse.factor.forward(bias, x), None, target)
        ctx.save_for_backward(x, weight, surplus)
        return nll.to(x.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, weight, surplus), sparse = ctx.saved_tensors, ctx.sparse
        scaled, d_bias = x * gradient.unsqueeze(1), torch.mv(surplus.t(), gradient)
        if sparse is None:
            d_x, d_weight = torch.mm(surplus, weight), torch.mm(surplus.t(), scaled)
        else:
            d_x, d_weight = sparse.factor.back(None, surplus), sparse.gradient(scaled, surplus)
        return d_x.mul_(gradient.unsqueeze(1)), d_weight, d_bias, None, None


class _RoundedNLL(torch.autograd.Function):
    """The same with operands of products rounded to a type of 16 bits, and the softmax in float32."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, rounded: torch.dtype
    ) -> Tensor:
        x, weight = x.to(rounded), weight.to(rounded)
        nll, surplus = excess(torch.mm(x, weight.t()), bias, target)
        ctx.save_for_backward(x, weight, surplus)
        return nll

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, surplus = ctx.saved_tensors
        d_x = torch.mm(surplus, weight).float().mul_(gradient.unsqueeze(1))
        # One product for both: one column alone takes as long as two hundred. Zeros keep the width a multiple of the
        # 32 numbers of 16 bits that a row of a matrix unit's tile holds.
        beside = functional.pad(gradient.unsqueeze(1), (0, 31))
        scaled = torch.cat([x * gradient.unsqueeze(1), beside], 1).to(x.dtype)
        both = torch.mm(surplus.t(), scaled)
        return d_x, both[:, : x.shape[1]].float(), both[:, x.shape[1]].float(), None, None


def softmax_nll(
    rows: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sparse: SparseWeight | None = None
) -> Tensor:
    """-log softmax(rows W^T + b) at the target, with one buffer of logits, or a few rows of them in evaluation.

    Args:
        rows: (N, H).
        weight: (V, H); with `sparse` it may be its existing values alone.
        bias: (V,).
        target: (N,) whole numbers in [0, V); every row counts, so there is none to be left out by.
        sparse: the weight where it exists, if the others are to be left out.

    Returns:
        nats, (N,).

    Raises:
        IndexError: targets that are no whole numbers or not one for each row; on a CPU also one outside.

    Example:
        >>> softmax_nll(torch.ones(1, 3), torch.zeros(4, 3), torch.zeros(4), torch.tensor([2])).exp()
        tensor([4.])
    """
    target = one_for_each(target, len(rows))
    rounded = rounding(rows.device)
    if rounded is not None:
        given = (rows, weight, bias, target, rounded)
        rounded_nll: Tensor = exactly(_RoundedNLL.apply, *given)
        return rounded_nll
    if torch.is_grad_enabled():
        nll: Tensor = _SoftmaxNLL.apply(rows, weight, bias, target, sparse)  # type: ignore[no-untyped-call]
        return nll
    parts = zip(torch.split(rows, EVAL_ROWS), torch.split(target, EVAL_ROWS), strict=True)
    return torch.cat([_nll(torch.mm(part, weight.t()), bias, wanted) for part, wanted in parts])


def one_for_each(target: Tensor, rows: int) -> Tensor:
    """Targets (N,) as int64.

    Raises:
        IndexError: they are no whole numbers, or not one for each of the rows.

    Example:
        >>> one_for_each(torch.tensor([3, 1], dtype=torch.int32), 2)
        tensor([3, 1])
    """
    if target.shape != (rows,):
        raise IndexError(f"the target has the shape {tuple(target.shape)}; it must be ({rows},).")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise IndexError(f"the target is of {target.dtype}; it must be of whole numbers, one for each row.")
    return target.long()


def _nll(scores: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    if softmax_kernel.takes(scores):
        return softmax_kernel.softmax(scores, bias, target, keep=False).to(scores.dtype)
    return functional.cross_entropy(scores + bias, target, reduction="none", ignore_index=NOBODY)
