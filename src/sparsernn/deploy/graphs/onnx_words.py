"""Tables of words and heads in ONNX: a word's vector, and from hidden vectors to the probability of every word.

Strips are stored as the strips they are; a weight that is tied is stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from sparsernn.core.plain import Part
from sparsernn.deploy.graphs.onnx_graph import Graph, writer_of
from sparsernn.nn import BlockEmbedding, BlockHead, Embedding, LinearHead, MixtureHead, SplitHead
from sparsernn.nn.blocks.block_mixture import BlockMixtureHead
from sparsernn.nn.words.word_table import WordTable


def write_embedding(g: Graph, table: nn.Module, words: str) -> str:
    """words (T, B) -> their vectors, (T, B, E).

    Raises:
        InputError: a table of another kind.
    """
    return writer_of(EMBEDDING_WRITERS, table)(g, table, words)  # type: ignore[no-any-return]


def write_head(g: Graph, head: nn.Module, y: str, words: int) -> str:
    """y (T, B, H) -> log P(word), (T, B, V).

    Raises:
        InputError: a head of another kind.
    """
    rows = writer_of(HEAD_WRITERS, head)(g, head, g.do("Flatten", y, axis=2))
    shape = g.do("Concat", g.sliced(g.do("Shape", y), 0, 2, 0), g.numbers(words), axis=0)
    return g.do("Reshape", rows, shape)


def _dense(g: Graph, table: Embedding, words: str) -> str:
    return g.rows(table.weight, words)


def _word_table(g: Graph, table: WordTable, words: str) -> str:
    """The trained words, and after them the given ones."""
    tables = [g.weight(part) for part in (table.weight, table.fixed) if len(part)]
    return g.do("Gather", g.joined(tables, axis=0), words)


def _strips(g: Graph, table: BlockEmbedding, words: str) -> str:
    """A row of each strip, zeros where the strip has none for the word."""
    rows, zero, parts = g.do("Gather", g.weight(table.row), words), g.number(0.0), []
    for strip in table.strips:
        own = g.do("Sub", rows, g.numbers(table.vocabulary_size - len(strip)))
        found = g.rows(strip, g.do("Max", own, g.numbers(0)))
        here = g.do("Unsqueeze", g.do("Less", g.numbers(-1), own), g.numbers(-1))
        parts.append(g.do("Where", here, found, zero))
    return g.joined(parts)


EMBEDDING_WRITERS: dict[type[nn.Module], Callable[[Graph, Part, str], str]] = {
    BlockEmbedding: _strips,
    Embedding: _dense,
    WordTable: _word_table,
}
"""Table of words -> what writes it."""


def _scores(g: Graph, rows: str, weight: Tensor, bias: Tensor | None) -> str:
    """rows (N, H) -> rows W^T + b (N, V)."""
    return g.gemm(rows, weight, () if bias is None else (g.weight(bias),))


def _log_softmax(g: Graph, scores: str) -> str:
    return g.do("LogSoftmax", scores, axis=-1)


def _linear(g: Graph, head: LinearHead, rows: str) -> str:
    return _log_softmax(g, _scores(g, rows, head.weight, head.bias))


def _block(g: Graph, head: BlockHead, rows: str) -> str:
    return _log_softmax(g, _decoded(g, head.table, rows, head.bias))


def _decoded(g: Graph, table: BlockEmbedding, rows: str, bias: Tensor) -> str:
    """rows (N, D) times the strips, in the order of the words: each strip adds to the words that it has."""
    strips = table.strips
    features = g.split(rows, [strip.shape[1] for strip in strips])
    products = [g.gemm(x, s) for x, s in zip(features, strips, strict=True)]
    made, shorter = products[-1], len(strips[-1])
    for product, strip in zip(reversed(products[:-1]), reversed(strips[:-1]), strict=True):
        longer = len(strip)
        alone, shared = g.split(product, [longer - shorter, shorter]) if longer > shorter else ("", product)
        both = g.do("Add", shared, made)
        made, shorter = g.joined([alone, both]) if alone else both, longer
    return g.do("Add", g.do("Gather", made, g.weight(table.row), axis=1), g.weight(bias))


def _mixture(g: Graph, head: MixtureHead, rows: str) -> str:
    return _mixed(g, head, rows, lambda latents: _scores(g, latents, head.weight, head.bias))


def _block_mixture(g: Graph, head: BlockMixtureHead, rows: str) -> str:
    return _mixed(g, head, rows, lambda latents: _decoded(g, head.table, latents, head.bias))


def _mixed(g: Graph, head: MixtureHead, rows: str, decode: Callable[[str], str]) -> str:
    """log sum_k pi_k softmax(h_k), at least the floor."""
    latents, experts = rows, head.experts
    if head.latent is not None:
        latents = g.do("Tanh", _scores(g, rows, head.latent, head.latent_bias))
    width = _width(head)
    log_prob = _log_softmax(g, decode(g.do("Reshape", latents, g.numbers(-1, width))))
    if head.prior is not None:
        each = g.do("Reshape", log_prob, g.numbers(-1, experts, len(head.bias)))
        prior = _log_softmax(g, _scores(g, rows, head.prior, None))
        log_prob = g.reduced("ReduceLogSumExp", g.do("Add", each, g.do("Unsqueeze", prior, g.numbers(-1))), 1)
    if not head.floor:
        return log_prob
    return g.do("Log", g.do("Add", g.do("Exp", log_prob), g.number(head.floor)))


def _width(head: MixtureHead) -> int:
    """Of a latent: what the decoder reads."""
    return head.table.embedding_size if isinstance(head, BlockMixtureHead) else head.weight.shape[1]


def _split(g: Graph, head: SplitHead, rows: str) -> str:
    """The first class with the tombstones, then each other class behind its own."""
    if head.tombstones is None or head.tombstone_bias is None:
        return _log_softmax(g, _scores(g, rows, head.weight, head.bias))
    classes = len(head.splits)
    sizes = [end - start for start, end in pairwise([0, *head.splits, len(head.bias)])]
    first, *others = g.split(_scores(g, rows, head.weight, head.bias), sizes)
    both = g.joined([first, _scores(g, rows, head.tombstones, head.tombstone_bias)])
    first, *tails = (_log_softmax(g, scores) for scores in (both, *others))
    words, *tombs = g.split(first, [sizes[0], *[1] * classes])
    return g.joined([words, *_behind(g, tombs, tails)])


def _behind(g: Graph, tombs: Sequence[str], tails: Sequence[str]) -> list[str]:
    return [g.do("Add", tomb, tail) for tomb, tail in zip(tombs, tails, strict=True)]


HEAD_WRITERS: dict[type[nn.Module], Callable[[Graph, Part, str], str]] = {
    BlockHead: _block,
    BlockMixtureHead: _block_mixture,
    LinearHead: _linear,
    MixtureHead: _mixture,
    SplitHead: _split,
}
"""Head -> what writes it."""
