"""Heads: from hidden vectors to the probability of the next word."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsernn.core.autograd_context import Context
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.precision import exactly, rounding, widened
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts, SparseWeight
from sparsernn.structure.units import Slice

EVAL_ROWS = 512
"""Rows of logits held at a time in evaluation: 20 MB at V = 10,000, whatever the window is."""


class _SoftmaxNLL(torch.autograd.Function):
    """-log softmax(x W^T + b) at the target, with one (N, V) buffer where autograd would hold three.

    With P the probabilities and g the incoming gradient per row, the gradient of the logits is
    diag(g) (P - onehot); it is never formed: P meets W and x in the two products, and the one-hot part is a
    gather of W and a scatter into dW. With `sparse`, products and dW are of the existing weights only, and the
    one-hot part is taken off P in place while they are made.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sparse: SparseWeight | None
    ) -> Tensor:
        ctx.sparse = sparse
        scores = torch.addmm(bias, x, weight.t()) if sparse is None else sparse.factor.forward(bias, x)
        torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)
        nll = -scores.gather(1, target.unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(x, weight, scores.exp_(), target)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, weight, probability, target), sparse = ctx.saved_tensors, ctx.sparse
        scaled = x * gradient.unsqueeze(1)
        d_bias = torch.mv(probability.t(), gradient).index_add_(0, target, gradient, alpha=-1)
        if sparse is None:
            d_x = torch.mm(probability, weight).sub_(weight[target])
            d_weight = torch.mm(probability.t(), scaled).index_add_(0, target, scaled, alpha=-1)
        else:
            hit, place = (
                torch.arange(len(target), device=target.device),
                probability.gather(1, target[:, None]),
            )
            probability[hit, target] -= 1
            d_x = sparse.factor.back(None, probability)
            d_weight = sparse.gradient(scaled, probability)
            probability.scatter_(1, target[:, None], place)
        return d_x.mul_(gradient.unsqueeze(1)), d_weight, d_bias, None, None


class _RoundedNLL(torch.autograd.Function):
    """The same with operands rounded to a type of 16 bits, and the softmax in float32.

    Kept for the way back is P - onehot, taken in float32 and rounded then: where the target is nearly certain, the
    difference of two rounded numbers would be noise.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, rounded: torch.dtype
    ) -> Tensor:
        x, weight = x.to(rounded), weight.to(rounded)
        scores = torch.mm(x, weight.t()).float().add_(bias)
        torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)
        place = target.unsqueeze(1)
        nll = -scores.gather(1, place).squeeze(1)
        scores.exp_().scatter_add_(1, place, scores.new_full(place.shape, -1.0))
        ctx.save_for_backward(x, weight, scores.to(rounded))
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, excess = ctx.saved_tensors
        d_x = torch.mm(excess, weight).float().mul_(gradient.unsqueeze(1))
        # One product for both: one column alone takes as long as two hundred. Zeros keep the width a multiple of the
        # 32 numbers of 16 bits that a row of a matrix unit's tile holds.
        beside = functional.pad(gradient.unsqueeze(1), (0, 31))
        scaled = torch.cat([x * gradient.unsqueeze(1), beside], 1).to(x.dtype)
        both = torch.mm(excess.t(), scaled)
        return d_x, both[:, : x.shape[1]].float(), both[:, x.shape[1]].float(), None, None


def softmax_nll(
    rows: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sparse: SparseWeight | None = None
) -> Tensor:
    """-log softmax(rows W^T + b) at the target, with one buffer of logits, or a few rows of them in evaluation.

    Args:
        rows: (N, H).
        weight: (V, H); with `sparse` it may be its existing values alone.
        bias: (V,).
        target: (N,) int64.
        sparse: the weight where it exists, if the others are to be left out.

    Returns:
        nats, (N,).

    Example:
        >>> softmax_nll(torch.ones(1, 3), torch.zeros(4, 3), torch.zeros(4), torch.tensor([2])).exp()
        tensor([4.])
    """
    rounded = rounding(rows.device)
    if rounded is not None:
        given = (rows, weight, bias, target, rounded)
        rounded_nll: Tensor = exactly(_RoundedNLL.apply, *given)
        return rounded_nll
    if torch.is_grad_enabled():
        nll: Tensor = _SoftmaxNLL.apply(rows, weight, bias, target, sparse)  # type: ignore[no-untyped-call]
        return nll
    parts = zip(torch.split(rows, EVAL_ROWS), torch.split(target, EVAL_ROWS), strict=True)
    pairs = ((functional.linear(part, weight, bias), wanted) for part, wanted in parts)
    return torch.cat([functional.cross_entropy(scores, wanted, reduction="none") for scores, wanted in pairs])


def decoder(vocabulary_size: int, size: int, tied: nn.Parameter | None) -> nn.Parameter:
    """The matrix that a head decodes vectors of `size` with, (V, size): the embedding's, or one of its own.

    Args:
        vocabulary_size: V.
        size: width of what is decoded.
        tied: the embedding's weight; None makes a new weight, U(-0.1, 0.1).

    Raises:
        InputError: the embedding has another width.
    """
    if tied is None:
        return nn.Parameter(torch.empty(vocabulary_size, size).uniform_(-0.1, 0.1))
    if tied.shape[1] != size:
        raise InputError(
            f"tied weights need a last hidden size equal to embedding_size, but they are {size} and "
            f"{tied.shape[1]}; set both alike or tied: false."
        )
    return tied


def unused_prior(size: int, wanted: bool) -> nn.Parameter | None:
    """Weights (size,) of a choice among one softmax, if `wanted`: they count, and nothing reads or changes them.

    The code of predefined sparseness keeps such a layer of its mixture of softmaxes when the mixture is one, and the
    published numbers of parameters include it.
    """
    return nn.Parameter(torch.zeros(size), requires_grad=False) if wanted else None


class Head(nn.Module, ABC):
    """What a head offers.

    Every head decodes with `weight` (V, .), which may be the embedding's own, and has a `bias` (V,).
    `decodes_directly` says whether column k of `weight` reads feature k of y itself: then a tied weight makes feature
    k of the top layer and feature k of the embedding one thing, and they can only be removed together.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    decodes_directly: bool = True

    @abstractmethod
    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""

    @abstractmethod
    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""

    @abstractmethod
    def inputs(self) -> tuple[Slice, ...]:
        """The slices through which the head reads feature k of y."""

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """The head's spec with the settings that another width of y has changed: none."""
        return dict(spec)


class LinearHead(SparseProducts, Head):
    """softmax(W y + b).

    Args:
        vocabulary_size: V.
        input_size: H.
        tied: the embedding's weight (V, H) to decode with; None gives the head a weight of its own.
        idle_prior: H more parameters without use, see `unused_prior`; for published totals only.
        product: "dense", "sparse" or "auto", as `sparsernn.nn.LSTM` has it, in the loss. A tied weight is stored
            without zeros where the embedding has `product`, too.

    Parameters: `weight` (V, H), U(-0.1, 0.1) unless tied; `bias` (V,), 0.

    Example:
        >>> head = LinearHead(10, 4)
        >>> y, target = torch.randn(3, 2, 4), torch.randint(10, (3, 2))
        >>> head.nll(y, target).shape
        torch.Size([6])

    Source of tying: O. Press and L. Wolf, "Using the Output Embedding to Improve Language Models", 2017,
    arXiv:1608.05859.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int,
        tied: nn.Parameter | None = None,
        *,
        idle_prior: bool = False,
        product: ProductName = "dense",
    ) -> None:
        super().__init__()
        self._begin_products(product)
        self.weight = decoder(vocabulary_size, input_size, tied)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.prior = unused_prior(input_size, idle_prior)

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""
        rows = y.reshape(-1, y.shape[-1])
        held = self.held("weight")
        sparse = self.sparse_weight("weight", held) if self.multiplies_sparsely(rows[None]) else None
        weight = self.weight if sparse is None else held
        return softmax_nll(rows, weight, self.bias, target.reshape(-1), sparse)

    input_weights = ("weight",)

    def logits(self, y: Tensor) -> Tensor:
        """Scores before the softmax, (..., V)."""
        return functional.linear(y, self.weight, self.bias)

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        scores: Tensor = widened(self.logits(y))
        return scores.log_softmax(-1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the weight."""
        idle = () if self.prior is None else (Slice(self, "prior", 0, in_norm=False),)
        return (Slice(self, "weight", 1), *idle)
