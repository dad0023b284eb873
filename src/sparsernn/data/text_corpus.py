"""A corpus: three splits of a text as token ids, their vocabulary, and where all of it came from."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsernn.core.checks import checked
from sparsernn.core.plain import Json
from sparsernn.data.content_split import SPLITS
from sparsernn.data.text_files import sha256
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import (
    EOS,
    UNKNOWN,
    Order,
    Vocabulary,
    check_vocabulary,
    collect,
    ordered,
)

__all__ = [
    "EOS",
    "SPLITS",
    "UNKNOWN",
    "Corpus",
    "Vocabulary",
    "VocabularyRules",
    "build_corpus",
    "check_vocabulary",
    "own_rules",
]

LEVELS = ("word", "char")


@dataclass(frozen=True)
class Corpus:
    """A text to learn from.

    Attributes:
        vocabulary: token <-> id.
        splits: "train", "valid", "test" -> ids, shape (tokens,): int64, or uint16 or uint32 where they stay on the
            disk (`long_text`).
        info: plain data for the run folder: `name`, `source`, `level` ("word", "char" or "subword"), `style` (see
            `styles.style_of`), `sha256` {split: of the split's text}, `tokens` {split: count}, `words` {split: count}
            of subwords, `vocabulary` (size), `order` (of its ids), `vocabulary_sha256`, `unknown_rate` {split:
            fraction of tokens that are `<unk>`}, `note` (what a reader of the results must know; may be empty), and
            more from some corpora.
    """

    vocabulary: Vocabulary
    splits: dict[str, Tensor]
    info: dict[str, Json]

    @property
    def level(self) -> str:
        """ "word", "char" or "subword"."""
        return str(self.info["level"])


@checked
@dataclass(frozen=True)
class VocabularyRules:
    """Which tokens of a corpus get an id of their own.

    Args:
        maximum: at most so many tokens, the most frequent; None: no limit.
        min_count: tokens rarer than this in the counted splits become `<unk>`.
        splits: the splits that are counted. The benchmarks count all three, a user's own text only the first:
            a model is not to know words that it first meets when it is tested.
        unknown: give the vocabulary an `<unk>` in any case.
        order: of the ids, see `vocabulary.ordered`; the training split alone is counted for it.
    """

    maximum: int | None = None
    min_count: int = 1
    splits: tuple[str, ...] = SPLITS
    unknown: bool = False
    order: Order = "first"


def own_rules(level: str, maximum: int | None, min_count: int | None, order: str) -> VocabularyRules:
    """The rules for a text that is no benchmark: the training split alone is counted, and there is an `<unk>`.

    Args:
        level: "char" and "byte": every character that training has gets an id unless `min_count` says otherwise.
        maximum: see `VocabularyRules`.
        min_count: None: 1 for characters, 2 for words, so that `<unk>` is trained.
        order: see `VocabularyRules`.

    >>> own_rules("char", None, None, "first").min_count, own_rules("word", None, None, "first").min_count
    (1, 2)
    """
    least = min_count if min_count is not None else 1 if level in ("char", "byte") else 2
    return VocabularyRules(maximum, least, splits=("train",), unknown=True, order=order)


def build_corpus(
    texts: Mapping[str, str],
    style: Style,
    info: Mapping[str, Json],
    rules: VocabularyRules | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """Cut three texts into tokens, collect (or take) a vocabulary, and encode.

    Args:
        texts: "train", "valid", "test" -> text.
        style: how to cut.
        info: what the caller knows already; it is completed here. `sha256` is computed unless given.
        rules: for the vocabulary; None: every token of all three splits.
        vocabulary: use this one and collect none.

    Raises:
        InputError: a token is missing from a given vocabulary that has no `<unk>`.

    Example:
        >>> texts = {"train": "a b", "valid": "a", "test": "b"}
        >>> corpus = build_corpus(texts, Style("whitespace"), {"level": "word"})
        >>> corpus.splits["train"], corpus.vocabulary.tokens
        (tensor([0, 1, 2]), ('a', 'b', '<eos>'))
    """
    tokens = {split: style.tokens(texts[split]) for split in SPLITS}
    rules = rules or VocabularyRules()
    vocabulary = vocabulary or _collect(tokens, rules)
    splits = {split: vocabulary.encode(tokens[split]) for split in SPLITS}
    facts = {
        "name": "corpus",
        "source": "",
        "note": "",
        "sha256": {split: sha256(texts[split]) for split in SPLITS},
        **info,
        "style": style.plain(),
        "tokens": {split: len(ids) for split, ids in splits.items()},
        "vocabulary": len(vocabulary),
        "order": rules.order,
        "vocabulary_sha256": vocabulary.sha256(),
        "unknown_rate": {split: _unknown_rate(ids, vocabulary) for split, ids in splits.items()},
    }
    return Corpus(vocabulary, splits, facts)


def _collect(tokens: Mapping[str, list[str]], rules: VocabularyRules) -> Vocabulary:
    counted = (tokens[split] for split in rules.splits)
    found = collect(counted, maximum=rules.maximum, min_count=rules.min_count, unknown=rules.unknown)
    return ordered(found, tokens["train"], rules.order)


def _unknown_rate(ids: Tensor, vocabulary: Vocabulary) -> float:
    if vocabulary.unknown is None or len(ids) == 0:
        return 0.0
    return float((ids == vocabulary.unknown).double().mean())
