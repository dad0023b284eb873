"""A softmax in two levels for large vocabularies, with the embedding's weights."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Rising, Size
from sparsernn.core.precision import widened
from sparsernn.nn.words.heads import Head, decoder
from sparsernn.nn.words.softmax import softmax_nll
from sparsernn.structure.units import Slice

SPLITS = ((500_000, (4_200, 35_000, 180_000)), (75_000, (2_800, 20_000, 76_000)))
"""Vocabularies above a size, and where the published code splits them; smaller ones it does not split."""


class SplitHead(Head):
    """Words in classes of falling frequency: the first one at once, the others behind one tombstone each.

        P(w) = softmax([W_0 y + b_0 ; t y + c])_w                          for w < splits[0]
        P(w) = softmax([W_0 y + b_0 ; t y + c])_j * softmax(W_j y + b_j)_w  for w in class j >= 1

    Only the classes that occur among the targets are computed, so this is fast when words are numbered by falling
    frequency, and slower than a plain softmax when they are numbered in order of appearance.

    Args:
        vocabulary_size: V.
        input_size: H.
        tied: the embedding's weight (V, H) to decode with; None gives the head a weight of its own.
        splits: first word of each class after the first, rising, each between 1 and V - 1; [] is a plain softmax;
            null chooses by V as the published code does: none up to 75,000, [2800, 20000, 76000] up to 500,000, else
            [4200, 35000, 180000], as far as they lie below V.

    Parameters: `weight` (V, H), U(-0.1, 0.1) unless tied; `bias` (V,), 0; with splits also `tombstones` (m, H) and
    `tombstone_bias` (m,), 0, in the order of the classes.

    Raises:
        InputError: splits that are not rising word numbers.

    Example:
        >>> head = SplitHead(10, 4, splits=[3, 7])
        >>> y, target = torch.randn(3, 2, 4), torch.randint(10, (3, 2))
        >>> head.nll(y, target).shape, head.log_prob(y).exp().sum(-1).round(decimals=4)[0]
        (torch.Size([6]), tensor([1., 1.], grad_fn=<SelectBackward0>))

    Source: S. Merity, N. S. Keskar and R. Socher, "An Analysis of Neural Language Modeling at Multiple Scales", 2018,
    arXiv:1803.08240; E. Grave et al., "Efficient softmax approximation for GPUs", 2017, arXiv:1609.04309.
    Differs from the original: tombstones belong to the model, so every optimizer trains them; they stand in the order
    of the classes instead of the reverse; one softmax per class instead of two; any number of classes works.
    """

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        input_size: Size,
        tied: nn.Parameter | None = None,
        *,
        splits: Annotated[Sequence[Size], Rising()] | None = None,
    ) -> None:
        super().__init__()
        self.splits = _default(vocabulary_size) if splits is None else _checked(splits, vocabulary_size)
        self.weight = decoder(vocabulary_size, input_size, tied)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        many = len(self.splits)
        self.tombstones = nn.Parameter(torch.zeros(many, input_size)) if many else None
        self.tombstone_bias = nn.Parameter(torch.zeros(many)) if many else None

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""
        rows, words = y.reshape(-1, y.shape[-1]), target.reshape(-1)
        classes = torch.zeros_like(words)
        for split in self.splits:  # few: no table of them has to be brought to the device
            classes += words >= split
        (weight, bias), *tails = self._classes()
        first = torch.where(classes == 0, words, len(bias) - 1 - len(self.splits) + classes)
        nll = softmax_nll(rows, weight, bias, first)
        for members, start, (weight, bias) in zip(self._members(classes), self.splits, tails, strict=True):
            if len(members):
                inside = softmax_nll(rows[members], weight, bias, words[members] - start)
                nll = nll.index_add(0, members, inside)
        return nll

    def _members(self, classes: Tensor) -> Sequence[Tensor]:
        """The words of each class but the first, by number; a device is waited for once, for how many there are."""
        if not self.splits:
            return ()
        numbers = torch.arange(len(self.splits) + 1, device=classes.device)
        counts = (classes == numbers.unsqueeze(1)).sum(1).tolist()
        return torch.split(classes.argsort(stable=True), counts)[1:]

    def log_prob(self, y: Tensor) -> Tensor:
        """log P(word), (..., V)."""
        first, *tails = (widened(functional.linear(y, *part)).log_softmax(-1) for part in self._classes())
        words, tombs = torch.split(first, [first.shape[-1] - len(tails), len(tails)], -1)
        behind = (tail + tombs[..., k : k + 1] for k, tail in enumerate(tails))
        return torch.cat([words, *behind], -1)

    def inputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of the weight and of the tombstones."""
        names = ("weight", "tombstones") if self.splits else ("weight",)
        return tuple(Slice(self, name, 1) for name in names)

    def _classes(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weight and bias of each class; those of the tombstones follow the first one's."""
        if self.tombstones is None or self.tombstone_bias is None:
            yield self.weight, self.bias
            return
        borders = [0, *self.splits, len(self.bias)]
        sizes = [end - start for start, end in itertools.pairwise(borders)]
        # one split, not slices: its gradient is put together once instead of once per class at full size
        (weight, *weights), (bias, *biases) = torch.split(self.weight, sizes), torch.split(self.bias, sizes)
        yield torch.cat([weight, self.tombstones]), torch.cat([bias, self.tombstone_bias])
        yield from zip(weights, biases, strict=True)


def _default(vocabulary_size: int) -> tuple[int, ...]:
    chosen = next((splits for above, splits in SPLITS if vocabulary_size > above), ())
    return tuple(split for split in chosen if split < vocabulary_size)


def _checked(splits: Sequence[int], vocabulary_size: int) -> tuple[int, ...]:
    if max(splits, default=0) >= vocabulary_size:
        raise InputError(
            f"splits is {splits!r}; it must be null or a list of rising word numbers between 1 and "
            f"{vocabulary_size - 1}, such as [2800, 20000]."
        )
    return tuple(splits)
