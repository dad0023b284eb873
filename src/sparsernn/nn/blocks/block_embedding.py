"""An embedding whose rare words have short vectors: strips of falling height, and nothing where they end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Density, DropRate, OneOf, Size
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.core.torch_releases import is_exporting
from sparsernn.nn.blocks import strips
from sparsernn.nn.blocks.geometry import STRIPS, Listed, Strips, exact, listed_strips
from sparsernn.structure.units import Slice


@checked
def rows_by_count(counts: Sequence[int] | Tensor, order: "Annotated[str, OneOf(ORDERS)]" = "up") -> Tensor:
    """Which word stands in which row of a table, (V,) int64.

    Args:
        counts: how often each word occurs in the training text, (V,); words that do not occur there have 0.
        order: "up" (the rarest first), "down" (the most frequent first), "random" (shuffled, always alike) or
            "given" (row k is word k). Ties keep the order of the words.

    Raises:
        InputError: another order.

    Example:
        >>> rows_by_count([5, 1, 9, 1])
        tensor([1, 3, 0, 2])
    """
    counts = torch.as_tensor(counts)
    return ORDERS[order](counts)


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "up": lambda counts: torch.argsort(counts, stable=True),
    "down": lambda counts: torch.argsort(-counts, stable=True),
    "random": lambda counts: torch.randperm(len(counts), generator=stream("row order")),
    "given": lambda counts: torch.arange(len(counts)),
}


class BlockEmbedding(nn.Module):
    """A table of word vectors of unequal length: long for frequent words, short for rare ones.

    Rows stand in the order of the words' frequencies, the rarest first. The columns are cut into strips; the first
    has all V rows, each further one only the last, most frequent ones. What is missing of a vector is zeros that are
    never stored, multiplied or trained.

    Args:
        vocabulary_size: V.
        embedding_size: D, the longest vector.
        blocks: number of strips, at least 1; at most D are made. Or a list that says all: [width, height] for each.
        density: part of V x D that exists, in [1 / strips, 1], 0.5 unless given; with one strip 1. Not beside a list.
        geometry: "geometric" (strips of nearly equal width, heights fall by one factor) or "greedy" (the original's
            division); see `block_geometry`.
        counts: how often each word occurs in the training text, (V,); None: the vocabulary is sorted already, its
            most frequent word last.
        order: of the rows, see `rows_by_count`; None is "up" where there are counts and "given" where not.
        dropout: probability in [0, 1) that a word type is dropped for the whole window, in all strips together; kept
            vectors are scaled by 1 / (1 - dropout).

    Parameters: `strip_0`, `strip_1`, ... (height, width), initialised U(-0.1, 0.1). Buffers: `word` and `row`, (V,)
    int64: which word stands in which row, and the other way round.

    A head decodes with the same strips (`BlockHead`, which a language model takes when tied). A dropout mask over
    features is applied to the whole vectors, and so is shared by the strips like any other.

    Raises:
        InputError: sizes, density or probabilities out of range, an unknown name, or counts of another length.

    Example:
        >>> table = BlockEmbedding(10, 4, blocks=4, density=0.5)
        >>> (table.dense() != 0).sum(1)
        tensor([1, 1, 1, 1, 1, 2, 2, 3, 4, 4])
        >>> table(torch.tensor([[1, 9]])).shape
        torch.Size([1, 2, 4])

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: the vocabulary need not be sorted, for the table keeps its own order of rows; words
    that are not in the training text are among the rarest; no zeros are stored; see `block_geometry` for borders.
    """

    word: Tensor
    row: Tensor

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        embedding_size: Size,
        *,
        blocks: Size | Sequence[Json] = 10,
        density: Density | None = None,
        geometry: Annotated[str, OneOf(STRIPS)] = "geometric",
        counts: Sequence[int] | Tensor | None = None,
        order: Annotated[str, OneOf(ORDERS)] | None = None,
        dropout: DropRate = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.asked = blocks, density, geometry
        widths, heights = _strips(vocabulary_size, embedding_size, *self.asked)
        word = _check_order(vocabulary_size, counts, order)
        self.register_buffer("word", word)
        self.register_buffer("row", torch.argsort(word))
        for n, shape in enumerate(zip(heights, widths, strict=True)):
            self.register_parameter(f"strip_{n}", nn.Parameter(torch.empty(shape).uniform_(-0.1, 0.1)))
        self.blocks = len(widths)

    @property
    def strips(self) -> list[nn.Parameter]:
        """The strips from the left, (height, width) each."""
        return [getattr(self, f"strip_{n}") for n in range(self.blocks)]

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.word)

    @property
    def embedding_size(self) -> int:
        """D."""
        return sum(strip.shape[1] for strip in self.strips)

    @property
    def density(self) -> float:
        """Part of V x D that exists."""
        return sum(s.numel() for s in self.strips) / (self.vocabulary_size * self.embedding_size)

    @property
    def trusts_order(self) -> bool:
        """Whether it takes the last words for the most frequent ones, having no counts of its own."""
        return self.blocks > 1 and bool((self.row.diff() > 0).all())

    def extra_repr(self) -> str:
        """Sizes and strips."""
        shown = " ".join("x".join(map(str, strip.shape)) for strip in self.strips)
        return f"{self.vocabulary_size}, {self.embedding_size}, strips {shown}"

    def forward(self, words: Tensor) -> Tensor:
        """words (T, B) int64 -> vectors (T, B, D), zero where a word's vector has ended."""
        flat = words.reshape(-1)
        vectors = strips.lookup(self.rows_of(flat), self.strips)
        if self.training and self.dropout > 0.0:
            kept = functional.dropout(vectors.new_ones(self.vocabulary_size, 1), self.dropout)
            vectors = vectors * kept[flat]
        return vectors.view(*words.shape, -1)

    def rows_of(self, words: Tensor) -> Tensor:
        """words (N,) int64 -> the rows of the table that they have, (N,).

        Raises:
            IndexError: a number that is no word's; -1 is not the last one.
        """
        return self.row.index_select(0, words)

    def bands(self) -> list[Tensor]:
        """The same weights by rows: runs of words whose vectors are equally long, (words, length), rarest first.

        There are as many as strips; a run is empty where two strips are equally high.

        The rows of all bands, one after the other, are the rows of the table. Made anew from the strips at each
        call: a copy of what exists, through which gradients flow.
        """
        return strips.bands(self.strips)

    def decode(self, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """y (..., D) -> y E^T + bias, the score of every word, (..., V); no word is dropped.

        Args:
            y: vectors.
            bias: (V,), in the order of the words; None is 0.

        Example:
            >>> table = BlockEmbedding(10, 4, blocks=4, density=0.5)
            >>> y = torch.randn(3, 4)
            >>> bool(torch.allclose(table.decode(y), y @ table.dense().T))
            True
        """
        by_row = y.new_zeros(self.vocabulary_size) if bias is None else bias[self.word]
        scores = self.scores(y.reshape(-1, y.shape[-1]), by_row)
        # a graph for other programs cannot ask what stands in a table, and to ask a device is to wait for it
        told = self.row.device.type == "cpu" and not is_exporting()
        if not told or not torch.equal(self.row, torch.arange(len(self.row), device=self.row.device)):
            scores = scores.index_select(1, self.row)
        return scores.view(*y.shape[:-1], -1)

    def scores(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (N, D) times every row of the table plus bias (V,), (N, V), all in the order of the rows."""
        return strips.scores(x, bias, self.strips)

    @torch.no_grad()
    def dense(self) -> Tensor:
        """The table with its zeros, (V, D), row k for word k."""
        bands = self.bands()
        padded = [functional.pad(band, (0, self.embedding_size - band.shape[1])) for band in bands]
        return torch.cat(padded).index_select(0, self.row)

    @property
    def decoder(self) -> "BlockEmbedding":
        """What a tied head decodes with."""
        return self

    def outputs(self) -> tuple[Slice, ...]:
        """Feature k is a column of one strip."""
        borders = enumerate(strips.borders(self.strips))
        return tuple(Slice(self, f"strip_{n}", 1, span=range(start, stop)) for n, (start, stop) in borders)

    def resized(self, spec: Mapping[str, Json]) -> dict[str, Json]:
        """With a list of the strips, where the settings do not give them as they are now."""
        heights, widths = zip(*(strip.shape for strip in self.strips), strict=True)
        try:
            said = _strips(self.vocabulary_size, self.embedding_size, *self.asked)
        except InputError:
            said = None
        if said == (widths, heights):
            return dict(spec)
        kept = {key: value for key, value in spec.items() if key not in ("density", "geometry")}
        return kept | {"blocks": [list(strip) for strip in zip(widths, heights, strict=True)]}


def _strips(words: int, width: int, blocks: int | Listed, density: float | None, geometry: str) -> Strips:
    """Widths and heights of the strips that the settings ask for."""
    if not isinstance(blocks, int):
        if density is not None:
            raise InputError(f"density is {density} beside a list of strips; set one or the other.")
        return listed_strips(words, width, blocks)
    part = 0.5 if density is None else density
    count = min(blocks, width)
    if not 1 <= exact(part) * count <= count:
        raise InputError(f"density is {part}; with {count} strips it must lie in [1/{count}, 1].")
    return STRIPS[geometry](words, width, count, part)


def _check_order(words: int, counts: Sequence[int] | Tensor | None, order: str | None) -> Tensor:
    if counts is not None and len(counts) != words:
        raise InputError(f"counts has {len(counts)} entries; it must have one for each of the {words} words.")
    if counts is None and order in ("up", "down"):
        raise InputError(
            f"order is {order!r} without counts; it must be 'given' or 'random', or counts be there."
        )
    if counts is None:
        counts = [0] * words
        order = order or "given"
    return rows_by_count(counts, order or "up")
