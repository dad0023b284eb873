"""Corpora that need not fit into memory: numbered once into the cache, then read from there, window by window."""

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import replacing, sole_user
from sparsernn.data.byte_bar import ByteBar
from sparsernn.data.numbered_cache import call, digest_of, found, key, numbered_folder, sweep
from sparsernn.data.numbered_file import NumberedFile, Table, finish, open_numbered
from sparsernn.data.subwords import count_words
from sparsernn.data.text_corpus import SPLITS, Corpus, VocabularyRules
from sparsernn.data.text_parts import Part
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import UNKNOWN, Vocabulary, chosen, reordered
from sparsernn.numbering.appearance import Appearance
from sparsernn.numbering.crew import numbered_in_order
from sparsernn.numbering.piece_numbers import Numbered
from sparsernn.numbering.pieces import pieces_of

VERSION = 1
"""Of the way in which texts become numbers: another one, and the cache is not asked for those of before."""

LONG = 1 << 25
"""Bytes of text files, packed as they are, from which a corpus is numbered into the cache: 32 MB."""

Parts = Mapping[str, Part]


def is_long(parts: Parts) -> bool:
    """Whether these texts are numbered into the cache instead of in memory."""
    return sum({part.path: part.stat()[2] for part in parts.values()}.values()) >= LONG


def long_corpus(
    parts: Parts,
    style: Style,
    info: Mapping[str, Json],
    rules: VocabularyRules,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """The corpus that `text_corpus.build_corpus` makes of these texts, with ids that stay on the disk.

    They are uint16 or uint32, (tokens,); `windows.window_of` reads them. The first time the text is read once, by as
    many processes as there are cores; afterwards opening takes no longer for a longer text.

    Args:
        parts: "train", "valid", "test" -> where the text is.
        style: how to cut.
        info: what the caller knows already, `source` included; it is completed here.
        rules: for the vocabulary.
        vocabulary: use this one and collect none.

    Raises:
        InputError: a part that cannot be read or is no text, a cache that cannot be written, a text that changes
            while it is read, or a token that is missing from a given vocabulary that has no `<unk>`.
    """
    digests = {split: digest_of(parts[split], raw=style.name == "bytes") for split in SPLITS}
    folder = numbered_folder() / key(VERSION, digests, style.plain())
    name = _name(rules, vocabulary)
    numbered = found(folder, name)
    if numbered is None:
        numbered = _built(folder, name, parts, style, rules, vocabulary, str(info["source"]))
    return _corpus(numbered, digests, style, info, rules, vocabulary)


def _name(rules: VocabularyRules, vocabulary: Vocabulary | None) -> str:
    if vocabulary is not None:
        return key("vocabulary", vocabulary.sha256())
    return key("rules", rules.maximum, rules.min_count, rules.splits, rules.unknown, rules.order)


def _corpus(
    numbered: NumberedFile,
    digests: Mapping[str, str],
    style: Style,
    info: Mapping[str, Json],
    rules: VocabularyRules,
    vocabulary: Vocabulary | None,
) -> Corpus:
    splits, header = numbered.splits(), numbered.header
    facts = {
        "name": "corpus",
        "note": "",
        "sha256": digests,
        **info,
        "style": style.plain(),
        "tokens": {split: header["tokens"][split] for split in SPLITS},
        "vocabulary": header["vocabulary"],
        "order": rules.order,
        "vocabulary_sha256": header["vocabulary_sha256"],
        "unknown_rate": {split: numbered.facts["unknown_rate"][split] for split in SPLITS},
    }
    if words := numbered.facts.get("words"):
        facts["words"] = {split: words[split] for split in SPLITS}
    known = vocabulary if vocabulary is not None else numbered.vocabulary()
    return Corpus(known, {split: splits[split] for split in SPLITS}, facts)


def _built(
    folder: Path,
    name: str,
    parts: Parts,
    style: Style,
    rules: VocabularyRules,
    vocabulary: Vocabulary | None,
    source: str,
) -> NumberedFile:
    """Number the texts, or wait for another process that is at it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_user(folder, wait=True):
            if (meanwhile := found(folder, name)) is not None:
                return meanwhile
            sweep(folder)
            with replacing(folder / f"{name}.ids") as beside, beside.open("r+b") as file:
                _write(file, parts, style, rules, vocabulary, source)
            numbered = open_numbered(folder / f"{name}.ids")
            for also in (name, key("vocabulary", numbered.header["vocabulary_sha256"])):
                call(folder, also, name)
            return numbered
    except OSError as error:
        raise InputError(
            f"the numbers of the text '{source}' cannot be written into '{folder}' ({error.strerror or error}); they "
            "take four bytes a token, and $SPARSERNN_CACHE can name a place that has room."
        ) from None


def _write(
    file: IO[bytes],
    parts: Parts,
    style: Style,
    rules: VocabularyRules,
    vocabulary: Vocabulary | None,
    source: str,
) -> None:
    # the counted splits first: the order of a vocabulary is that in which they have its tokens
    order = [*rules.splits, *(split for split in SPLITS if split not in rules.splits)]
    before = {split: part.stat() for split, part in parts.items()}
    met = Appearance(order)
    tokens, words = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
    for split, piece in _numbered({split: parts[split] for split in order}, style, words):
        ids = met.take(split, piece)
        file.write(ids.tobytes())
        tokens[split] += len(ids)
    changed = next((part.path for split, part in parts.items() if part.stat() != before[split]), None)
    if changed is not None:
        raise InputError(f"'{changed}' was changed while its text was being numbered; start again.")
    known = vocabulary if vocabulary is not None else _collected(met, rules)
    table = _table(met, known)
    rates = {split: _unknown_rate(met, split, table, known) for split in order}
    facts: dict[str, Json] = {"source": source, "unknown_rate": rates}
    finish(file, table, tokens, known, {**facts, "words": words} if any(words.values()) else facts)


def _numbered(parts: Parts, style: Style, words: dict[str, int]) -> Iterator[tuple[str, Numbered]]:
    """The pieces of all splits, one split after the other, each with the name of its split."""
    names: deque[str] = deque()
    with ByteBar("numbering") as bar:
        bar.total = sum(part.size() for part in parts.values())
        found = _pieces(parts, style, names, bar, words)
        how = {"style": style.name, "lowercase": style.lowercase, "tokenizer": style.tokenizer}
        for piece in numbered_in_order(found, how):
            yield names.popleft(), piece


def _pieces(
    parts: Parts, style: Style, names: deque[str], bar: ByteBar, words: dict[str, int]
) -> Iterator[bytes]:
    for split, part in parts.items():
        for piece in pieces_of(part.blocks(), style.name, style.lowercase):
            names.append(split)
            if style.name == "subword":  # by which scores per word are known
                words[split] += count_words(piece.decode())
            yield piece
            bar.update(len(piece))


def _collected(met: Appearance, rules: VocabularyRules) -> Vocabulary:
    counted = np.sum([met.counts(split) for split in rules.splits], 0)
    pairs = zip(met.index, counted.tolist(), strict=True)
    counts = {token: count for token, count in pairs if count}
    made = chosen(counts, maximum=rules.maximum, min_count=rules.min_count, unknown=rules.unknown)
    if rules.order == "first":
        return made
    trained = np.bincount(_table(met, made), met.counts("train"), minlength=len(made))
    return reordered(made, torch.from_numpy(trained.astype(np.int64)), rules.order)


def _table(met: Appearance, vocabulary: Vocabulary) -> Table:
    """Number in order of appearance -> id."""
    fallback = -1 if vocabulary.unknown is None else vocabulary.unknown
    get = vocabulary.index.get
    ids = [get(token, fallback) for token in met.index]
    if fallback < 0 and -1 in ids:
        token = list(met.index)[ids.index(-1)]
        raise InputError(
            f"token {token!r} is not among the {len(vocabulary):,} of the vocabulary, which has no {UNKNOWN}."
        )
    return np.array(ids, np.uint32)


def _unknown_rate(met: Appearance, split: str, table: Table, vocabulary: Vocabulary) -> float:
    counts = met.counts(split)
    if vocabulary.unknown is None or not counts.sum():
        return 0.0
    return float(counts[table == vocabulary.unknown].sum() / counts.sum())
