"""How each kind of head is written as steps: from the top of a stack to the scores of all words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparsernn.core.plain import Part
from sparsernn.deploy.layer_steps import HeldWeights, plain
from sparsernn.deploy.step_list import Place, Step, StepList
from sparsernn.nn import LinearHead, MixtureHead, SplitHead
from sparsernn.nn.blocks.block_head import BlockHead
from sparsernn.nn.blocks.block_mixture import BlockMixtureHead

Build = Callable[[StepList, HeldWeights, Part, Place], Place]
"""(list, weights, head, what it reads) -> the scores."""
WEIGHT = "head.weight"


def decoder_of(head: Part) -> Tensor:
    """The matrix (V, E) that a head scores words with; strips with the zeros that they leave out.

    Example:
        >>> decoder_of(LinearHead(10, 4)).shape
        torch.Size([10, 4])
    """
    return head.table.dense() if isinstance(head, BlockHead | BlockMixtureHead) else head.weight


def _linear(steps: StepList, weights: HeldWeights, head: Part, y: Place) -> Place:
    scores = steps.room(len(head.bias))
    steps.add(
        Step("affine", scores, y, vector=plain(head.bias), first=weights.take(WEIGHT, decoder_of(head)))
    )
    return scores


def _mixture(steps: StepList, weights: HeldWeights, head: MixtureHead, y: Place) -> Place:
    """log of the sum over experts of prior times softmax, all in logarithms."""
    experts, words = head.experts, len(head.bias)
    scores, latents = steps.room(words), _latents(steps, weights, head, y)
    prior = _log_prior(steps, weights, head, y)
    logits, width = steps.room(experts * words), latents.rows // experts
    matrix, bias = weights.take(WEIGHT, decoder_of(head)), plain(head.bias)
    said = [logits.part(k * words, words) for k in range(experts)]
    parts = [latents.part(k * width, width) for k in range(experts)]
    steps.add(
        *(
            Step("affine", s, a, vector=bias, first=matrix, wait=False)
            for s, a in zip(said, parts, strict=True)
        )
    )
    steps.passes[-1][0][-1].wait = True
    norms = steps.room(experts)
    steps.add(
        *(
            Step("norm", norms.part(k, 1), s, c=prior.part(k, 1), size=1, rows=words, wait=k == experts - 1)
            for k, s in enumerate(said)
        )
    )
    floor = math.log(head.floor) if head.floor else -math.inf
    steps.add(Step("mix", scores, logits, norms, size=experts, factor=floor))
    return scores


def _latents(steps: StepList, weights: HeldWeights, head: MixtureHead, y: Place) -> Place:
    if head.latent is None or head.latent_bias is None:
        return y
    before, latents = (steps.room(len(head.latent)) for _ in range(2))
    matrix = weights.take("head.latent", head.latent)
    steps.add(
        Step("affine", before, y, vector=plain(head.latent_bias), first=matrix), Step("tanh", latents, before)
    )
    return latents


def _log_prior(steps: StepList, weights: HeldWeights, head: MixtureHead, y: Place) -> Place:
    if head.prior is None:
        return steps.constant(torch.zeros(1))
    prior, sum_of = steps.room(head.experts), steps.room(1)
    matrix = weights.take("head.prior", head.prior)
    steps.add(Step("affine", prior, y, vector=torch.zeros(head.experts), first=matrix))
    _normalise(steps, prior, sum_of)
    return prior


def _normalise(steps: StepList, scores: Place, norm: Place) -> None:
    """A softmax in logarithms, in place."""
    steps.add(Step("norm", norm, scores, rows=scores.rows), Step("shift", scores, b=norm))


def _split(steps: StepList, weights: HeldWeights, head: SplitHead, y: Place) -> Place:
    """The first words and the tombstones share a softmax; each other class has one, behind its tombstone."""
    if head.tombstones is None or head.tombstone_bias is None:
        scores = _linear(steps, weights, head, y)
        _normalise(steps, scores, steps.room(1))
        return scores
    scores, tombs = steps.room(len(head.bias)), steps.room(len(head.splits))
    norms = steps.room(1 + len(head.splits))
    borders = [0, *head.splits, len(head.bias)]
    classes = [scores.part(a, b - a) for a, b in itertools.pairwise(borders)]
    for k, (part, first) in enumerate(zip(classes, borders, strict=False)):
        rows = slice(first, first + part.rows)
        matrix, bias = weights.take_rows(WEIGHT, head.weight, rows, k), plain(head.bias[rows])
        steps.add(Step("affine", part, y, vector=bias, first=matrix, wait=False))
    matrix = weights.take("head.tombstones", head.tombstones)
    steps.add(Step("affine", tombs, y, vector=plain(head.tombstone_bias), first=matrix))
    steps.add(Step("norm", norms.part(0, 1), classes[0], tombs, rows=classes[0].rows))
    steps.add(Step("shift", tombs, b=norms.part(0, 1)))
    for k, part in enumerate(classes[1:]):
        steps.add(Step("norm", norms.part(k + 1, 1), part, c=tombs.part(k, 1), size=1, rows=part.rows))
    steps.add(*(Step("shift", part, b=norms.part(k, 1)) for k, part in enumerate(classes)))
    return scores


HEADS: dict[type, Build] = {
    LinearHead: _linear,
    BlockHead: _linear,
    MixtureHead: _mixture,
    BlockMixtureHead: _mixture,
    SplitHead: _split,
}
