"""Heads: from hidden vectors to the probability of the next word."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.precision import widened
from sparsernn.nn.drive.sparse_weight import ProductName, SparseProducts
from sparsernn.nn.words.softmax import softmax_nll
from sparsernn.structure.units import Slice


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
