"""A mixture of softmaxes: more expressive than one softmax, and K times its work.

The (N K, V) logits of a window do not fit in memory (2 GB for the published WikiText-2 run), which is why the
original splits its batches. Here they never exist as a whole: one walk over pieces of them leaves the likelihood
and, in training, its gradients.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.core.precision import exactly
from sparsernn.core.torch_releases import is_exporting
from sparsernn.nn.dropout import drop
from sparsernn.nn.words.heads import Head, decoder
from sparsernn.nn.words.word_spans import Members, members
from sparsernn.structure.units import Slice

PIECE = 1 << 24
"""Logits held at a time: 64 MB in float32."""


class _Gradients(NamedTuple):
    """Of the sum of scale * nll."""

    latents: Tensor
    bias: Tensor
    bands: list[Tensor]


class _Mixture(NamedTuple):
    """What is mixed: latents (N, K, E), log_prior (N, K), bias (V,), target (N,), and what decodes.

    bands: runs of words, (words, length) each, V words in all; a run reads the first `length` features of a latent.
    An ordinary weight is one run of all words.
    """

    latents: Tensor
    log_prior: Tensor
    bias: Tensor
    target: Tensor
    bands: list[Tensor]

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and log P of each word under each expert for them, (rows K, V), in one buffer used again."""
        rows, experts, _ = self.latents.shape
        height = max(1, min(rows, PIECE // (experts * len(self.bias))))
        buffer = self.latents.new_empty(height * experts, len(self.bias))
        for first in range(0, rows, height):
            piece = slice(first, min(first + height, rows))
            vectors = self.latents[piece].flatten(0, 1)
            scores = buffer[: len(vectors)]
            for band, here in self.columns():
                part = scores[:, here]
                torch.addmm(self.bias[here], vectors[:, : band.shape[1]], band.t(), out=part)
            yield piece, torch.ops.aten._log_softmax.out(scores, 1, False, out=scores)

    def columns(self) -> Iterator[tuple[Tensor, slice]]:
        """Each band, and the numbers of its words."""
        start = 0
        for band in self.bands:
            yield band, slice(start, start + len(band))
            start += len(band)

    def joint(self, piece: slice, scores: Tensor) -> Tensor:
        """log P(expert, target), (rows, K)."""
        words = self.target[piece].repeat_interleave(self.log_prior.shape[1])
        return scores.gather(1, words.unsqueeze(1)).view(-1, self.log_prior.shape[1]) + self.log_prior[piece]

    def likelihood(self) -> Tensor:
        """-log P(target), (N,)."""
        nll = self.log_prior.new_empty(len(self.target))
        for piece, scores in self.pieces():
            nll[piece] = -self.joint(piece, scores).logsumexp(1)
        return nll

    def gradients(self, scale: Tensor) -> tuple[Tensor, Tensor, _Gradients]:
        """-log P(target) (N,), P(expert | target) (N, K), and the gradients of the sum of scale (N,) * nll.

        With P_k the probabilities under expert k, the gradient of the logits of expert k is
        scale * posterior_k * (P_k - onehot); the factors go to the small side of both products, and the one-hot
        part is a gather of the weight and a scatter into its gradient.
        """
        nll, posterior = torch.empty_like(scale), torch.empty_like(self.log_prior)
        zeros = torch.zeros_like
        sums = _Gradients(zeros(self.latents), zeros(self.bias), [zeros(band) for band in self.bands])
        for piece, scores in self.pieces():
            joint = self.joint(piece, scores)
            nll[piece], posterior[piece] = -joint.logsumexp(1), joint.softmax(1)
            self._add(sums, piece, scores.exp_(), posterior[piece] * scale[piece].unsqueeze(1))
        return nll, posterior, sums

    def _add(self, sums: _Gradients, piece: slice, probability: Tensor, share: Tensor) -> None:
        latents, words, towards = self.latents[piece], self.target[piece], sums.latents[piece]
        scaled = latents * share.unsqueeze(2)
        for (band, here), own in zip(self.columns(), sums.bands, strict=True):
            part, width = probability[:, here], band.shape[1]
            whole = len(self.bands) == 1
            hit = Members(slice(None), words, None) if whole else members(words, here, band)
            towards.flatten(0, 1)[:, :width].addmm_(part, band)
            towards[hit.rows, :, :width] -= hit.only(band[hit.own]).unsqueeze(1)
            own.addmm_(part.t(), scaled.flatten(0, 1)[:, :width])
            own.index_add_(0, hit.own, hit.only(scaled.sum(1)[hit.rows, :width]), alpha=-1)
        towards.mul_(share.unsqueeze(2))
        sums.bias.addmv_(probability.t(), share.flatten()).index_add_(0, words, share.sum(1), alpha=-1)


def _alike(gradient: Tensor) -> bool:
    """Whether every token has the same gradient, as far as can be told without waiting for a device."""
    if gradient.stride(0) == 0:  # one number, as a sum sends it back
        return True
    return gradient.device.type == "cpu" and bool((gradient == gradient[:1]).all())


class _MixtureNLL(torch.autograd.Function):
    """-log sum_k prior_k softmax(E h_k + b) at the target.

    The forward walk takes the gradients along, for a gradient of 1 per token: while the probabilities of a piece are
    there, that is two products, and nothing has to be computed again. A mean or a sum over tokens only scales
    them; with any other weights per token the walk is repeated with those.
    """

    @staticmethod
    def forward(
        ctx: Context, latents: Tensor, log_prior: Tensor, bias: Tensor, target: Tensor, *bands: Tensor
    ) -> Tensor:
        given = _Mixture(latents, log_prior, bias, target, list(bands))
        nll, posterior, sums = given.gradients(torch.ones_like(log_prior[:, 0]))
        ctx.save_for_backward(*given[:4], posterior, *sums[:2], *bands, *sums.bands)
        return nll

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        latents, log_prior, bias, target, posterior, d_latents, d_bias, *both = ctx.saved_tensors
        bands, d_bands = list(both[: len(both) // 2]), list(both[len(both) // 2 :])
        if _alike(gradient):
            d_latents, d_bias, *d_bands = (t * gradient[0] for t in (d_latents, d_bias, *d_bands))
        else:
            given = _Mixture(latents, log_prior, bias, target, bands)
            d_latents, d_bias, d_bands = given.gradients(gradient)[2]
        return d_latents, posterior * -gradient.unsqueeze(1), d_bias, None, *d_bands


class MixtureHead(Head):
    """A mixture of K softmaxes.

        h_k = tanh(W_k y + b_k),   pi = softmax(W_pi y),   P = sum_k pi_k softmax(E h_k + b)

    Args:
        vocabulary_size: V.
        input_size: H; with the projection it need not equal E, also when tied.
        embedding_size: E, the width of the latents h_k.
        tied: the embedding's weight (V, E) to decode with; None gives the head a weight of its own.
        experts: K, at least 1.
        dropout: probability in [0, 1) of dropping a feature of a latent, one mask for all time steps of a window
            (y (T, B, H)); a new one for each vector where y is (N, H).
        projection: "always", or "never": y itself, cut into K parts, is the latents (H must be K E, without the
            tanh and this dropout); "auto": "never" where H is K E, else "always".
        floor: added to every probability, at least 0. The published code adds 1e-8, which caps the loss of a token
            at 18.4 nats and leaves probabilities that sum to more than 1; training is slower with it.

    Parameters: `prior` (K, H), missing for one expert; `latent` (K E, H) and `latent_bias` (K E,), missing without
    the projection; all U(-1/sqrt(H), 1/sqrt(H)); `weight` (V, E), U(-0.1, 0.1) unless tied; `bias` (V,), 0.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> head = MixtureHead(10, 6, 4, experts=3)
        >>> y, target = torch.randn(3, 2, 6), torch.randint(10, (3, 2))
        >>> head.nll(y, target).shape, head.log_prob(y).shape
        (torch.Size([6]), torch.Size([3, 2, 10]))

    Source: Z. Yang, Z. Dai, R. Salakhutdinov and W. W. Cohen, "Breaking the Softmax Bottleneck", 2018,
    arXiv:1711.03953.
    Differs from the original: the likelihood is taken in logarithms and so normalised (see `floor`); no batch has to
    be split, because the logits are walked over in pieces; one expert has no weights for a choice of one.
    """

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        input_size: Size,
        embedding_size: Size,
        tied: nn.Parameter | None = None,
        *,
        experts: Size = 10,
        dropout: DropRate = 0.0,
        projection: Literal["always", "auto", "never"] = "always",
        floor: DropRate = 0.0,
    ) -> None:
        super().__init__()
        fits = input_size == experts * embedding_size
        if projection == "never" and not fits:
            raise InputError(
                f"projection is 'never', but the last hidden size is {input_size} and not experts x embedding_size "
                f"= {experts} x {embedding_size}; make it so, or use projection: always."
            )
        self.experts, self.dropout, self.floor = experts, dropout, floor
        projected = not (projection == "never" or (projection == "auto" and fits))
        width = experts * embedding_size
        self.prior = _uniform(experts, input_size, fan_in=input_size) if experts > 1 else None
        self.latent = _uniform(width, input_size, fan_in=input_size) if projected else None
        self.latent_bias = _uniform(width, fan_in=input_size) if projected else None
        self._decode_with(tied, vocabulary_size, embedding_size)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.decodes_directly = not projected
        self.own_width = 0 if tied is not None else embedding_size

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""
        return exactly(self._nll, y, target)

    def _nll(self, y: Tensor, target: Tensor) -> Tensor:
        bias, rows, bands = self._table(target.reshape(-1))
        mixture = _Mixture(*self._mixed(y), bias, rows, bands)
        if torch.is_grad_enabled():
            nll = _MixtureNLL.apply(*mixture[:4], *bands)  # type: ignore[no-untyped-call]
            return -self._above_floor(-nll)
        return -self._above_floor(-mixture.likelihood())

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        return exactly(self._log_prob, y)

    def _log_prob(self, y: Tensor) -> Tensor:
        latents, log_prior = self._mixed(y)
        height = max(1, PIECE // (self.experts * len(self.bias)))
        if is_exporting():  # where the number of rows is free, that of the pieces cannot be
            return self._above_floor(self._mix(latents, log_prior)).view(*y.shape[:-1], -1)
        pairs = zip(torch.split(latents, height), torch.split(log_prior, height), strict=True)
        mixed = torch.cat([self._mix(vectors, prior) for vectors, prior in pairs])
        return self._above_floor(mixed).view(*y.shape[:-1], -1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the prior and of the projection, or of the weight where there is none.

        Raises:
            InputError: several experts read parts of y without a projection, so that no feature stands for itself.
        """
        if self.decodes_directly and self.experts > 1:
            raise InputError(
                f"a mixture of {self.experts} experts without projection reads y in {self.experts} equal parts, so "
                "no unit below it can be removed; use projection: always."
            )
        names = ("weight",) if self.decodes_directly else ("prior", "latent")
        return tuple(Slice(self, name, 1) for name in names if getattr(self, name) is not None)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """With "auto" said outright, which another width may change; a softmax of another width than E as such."""
        if self.latent is not None:
            return {**spec, "projection": "always"} if spec.get("projection") == "auto" else dict(spec)
        plain = self.own_width and self.weight.shape[1] != self.own_width and not self.floor
        return {"name": "linear"} if plain else dict(spec)

    def _decode_with(self, tied: Any, words: int, width: int) -> None:
        self.weight = decoder(words, width, tied)

    def _table(self, target: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The bias and the target in the order of the rows, and the rows in bands."""
        return self.bias, target, [self.weight]

    def _scores(self, latents: Tensor) -> Tensor:
        """(..., E) -> (..., V)."""
        return functional.linear(latents, self.weight, self.bias)

    def _mixed(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (N, K, E) and log pi (N, K)."""
        latents = y
        if self.latent is not None:
            latents = functional.linear(y, self.latent, self.latent_bias).tanh()
            latents = drop(latents, self.dropout, self.training, locked=y.ndim == 3)
        # the width from what comes in: it shrinks where units are removed
        latents = latents.reshape(-1, self.experts, latents.shape[-1] // self.experts)
        if self.prior is None:
            return latents, latents.new_zeros(len(latents), 1)
        return latents, functional.linear(y, self.prior).reshape(-1, self.experts).log_softmax(1)

    def _mix(self, latents: Tensor, log_prior: Tensor) -> Tensor:
        log_prob = self._scores(latents).log_softmax(2)
        return (log_prob + log_prior.unsqueeze(2)).logsumexp(1)

    def _above_floor(self, log_prob: Tensor) -> Tensor:
        if not self.floor:
            return log_prob
        return torch.logaddexp(log_prob, log_prob.new_full((), math.log(self.floor)))


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
