"""Corpora by name: a user's folder or file, the benchmarks, and what Python already has."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.data import download
from sparsernn.data.content_split import (
    SHARES,
    Key,
    check_shares,
    is_one_line,
    same_prose,
    same_words,
    split_by_content,
    split_contiguous,
)
from sparsernn.data.embedded_text import embedded
from sparsernn.data.long_corpora import enwik8, wikitext103
from sparsernn.data.split_files import DATA_VARIABLE, given_place, place_of
from sparsernn.data.split_texts import folder_parts, parts_corpus, read_splits
from sparsernn.data.subword_corpus import refuse_for_subwords, subword_corpus
from sparsernn.data.text_corpus import LEVELS, Corpus, VocabularyRules, build_corpus, own_rules
from sparsernn.data.text_files import read_text, sha256
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import Order, Vocabulary

OWN_LEVELS = ("word", "prose", "char", "byte")
OWN_STYLES = {"word": "whitespace", "prose": "prose", "char": "characters", "byte": "bytes"}


@checked
def folder(
    path: str | Path | None = None,
    level: Annotated[str, OneOf((*OWN_LEVELS, "subword"))] = "word",
    splits: Mapping[str, str] | None = None,
    max_vocabulary: int | None = None,
    min_count: int | None = None,
    vocabulary_from: Literal["train", "all"] = "train",
    order: Order = "first",
    tokenizer: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """A folder of yours with one file for each split: train.txt, valid.txt, test.txt.

    Files of 32 MB and more are numbered once into the cache (docs/long-texts.md) and need not fit into memory.

    A file belongs to a split by a whole word of its name (`split_files.find_split`): val.txt, ptb.train.txt,
    wiki.train.tokens, test.raw and train.txt.gz are found too.

    Args:
        path: the folder.
        level: "word" (split at white space, `<eos>` ends a line), "prose" (punctuation split off, lower case,
            numbers N, `<eos>` ends a paragraph), "char" (every character), "byte" (of the files as they are) or
            "subword" (byte-pair encoding on bytes, learnt from the training split; it needs the package tokenizers).
        splits: read another file for a split, {"train": "valid"} for example; the note of the corpus says so.
        max_vocabulary: size of the vocabulary at most, `<eos>` and `<unk>` included; None: no limit. Subwords: how
            many are learnt; None: 8192.
        min_count: rarer tokens of the counted text become `<unk>`; None: 2, so that `<unk>` is trained, and 1 at
            levels "char" and "byte", where no character gets lost.
        vocabulary_from: "train", or "all": every token of all three splits, in order of appearance, as the
            published benchmarks do (`min_count` is then 1).
        order: of the token numbers: "first" (appearance), "up" (by count in the training split, the rarest first, as
            a block embedding needs it), "down" or "random".
        tokenizer: a tokenizer.json of the package tokenizers, for level "subword"; None: learn one.
        data_dir: takes the place of `path`.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: no folder, a missing, empty, binary or undecodable file, a bad setting.
    """
    place = place_of("folder", path, data_dir)
    if level == "subword":
        refuse_for_subwords(
            min_count=min_count is not None,
            order=order != "first",
            vocabulary_from=vocabulary_from != "train",
        )
        parts, facts = folder_parts(place, splits)
        return subword_corpus(parts, facts | {"name": "folder"}, max_vocabulary, tokenizer, vocabulary)
    if tokenizer is not None:
        raise InputError(
            f"tokenizer is {str(tokenizer)!r}, but level is '{level}'; only 'subword' takes one."
        )
    own = own_rules(level, max_vocabulary, min_count, order)
    rules = own if vocabulary_from == "train" else VocabularyRules(max_vocabulary, order=order)
    style = Style(OWN_STYLES[level], lowercase=level == "prose")
    parts, facts = folder_parts(place, splits)
    facts |= {"name": "folder", "level": _kind(level)}
    return parts_corpus(parts, style, facts, rules, vocabulary)


@checked
def file(
    path: str | Path | None = None,
    level: Annotated[str, OneOf(OWN_LEVELS)] = "word",
    unit: Literal["auto", "paragraph", "line", "contiguous"] = "auto",
    max_vocabulary: int | None = None,
    min_count: int | None = None,
    lowercase: bool = False,
    order: Order = "first",
    shares: Sequence[float] = SHARES,
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """One text file of yours, split about 80 / 10 / 10 by the content of its paragraphs.

    A paragraph's place depends on its words alone, so an edit moves only the edited paragraph; repeated
    paragraphs are removed first, so nothing that is tested on was trained on. A text that is one long line, such as
    text8, is cut into contiguous parts instead, and `unit: contiguous` asks for that (enwik8).

    Args:
        path: the file.
        level: as in `folder`.
        unit: what stays whole: "paragraph", "line", or "auto" (lines where there are fewer than 20
            paragraphs); "contiguous": three stretches of the text, one after the other, which "auto" also takes for
            a long text of one or two lines.
        max_vocabulary: as in `folder`.
        min_count: as in `folder`.
        lowercase: put everything into lower case ("prose" always is).
        order: as in `folder`.
        shares: of contiguous parts: train, valid and test in per cent; [90, 5, 5] is how text8 and enwik8 are split.
        data_dir: takes the place of `path`: the file, or the folder that has it.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: a missing, empty, binary or undecodable file, fewer than three different lines, a bad
            setting.
    """
    place = place_of("file", path, data_dir)
    if place.is_dir() and path is not None:
        place = place / Path(path).name
    text = read_text(place)
    check_shares(shares)
    if unit == "contiguous" or (unit == "auto" and is_one_line(text)):
        split = split_contiguous(text, shares, between_words=_kind(level) != "char")
    else:
        split = split_by_content(text, unit=unit, key=_key(level, lowercase))
    info = {
        "name": "file",
        "source": str(place),
        "level": _kind(level),
        "text_sha256": sha256(text),
        "unit": split.unit,
        "duplicates_removed": split.duplicates,
    }
    rules = own_rules(level, max_vocabulary, min_count, order)
    style = Style(OWN_STYLES[level], lowercase=lowercase or level == "prose")
    return build_corpus(split.texts, style, info, rules, vocabulary)


@checked
def ptb(
    level: Annotated[str, OneOf(LEVELS)] = "word",
    path: str | Path | None = None,
    splits: Mapping[str, str] | None = None,
    max_vocabulary: int | None = None,
    order: Order = "first",
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """The Penn Treebank in Mikolov's preparation, as language models are measured on it.

    As words 929,589 / 73,760 / 82,430 tokens with `<eos>`, 10,000 types; as characters, derived from the same files,
    5,017,482 / 393,042 / 442,423 tokens, 50 types. Looked for in `data_dir` or `path`, then in $SPARSERNN_DATA/ptb,
    then in the cache, and downloaded last.

    Args:
        level: "word" or "char" (a space is `_`, `<unk>` is spelt out, `<eos>` ends a line).
        path: a folder that has the three files, or a folder `ptb` that has them.
        splits: as in `folder`.
        max_vocabulary: a smaller vocabulary than the benchmark's; None: the benchmark's.
        order: as in `folder`.
        data_dir: takes the place of `path`.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: a missing or undecodable file, no network, a bad setting.

    Source: T. Mikolov, M. Karafiat, L. Burget, J. Cernocky, S. Khudanpur, Recurrent neural network based language
    model, Interspeech 2010; M. Marcus, B. Santorini, M. A. Marcinkiewicz, Building a Large Annotated Corpus of
    English: The Penn Treebank, 1993.
    """
    texts, info = read_splits(_locate("ptb", given_place(path, data_dir)), splits, "ptb")
    style = Style("whitespace" if level == "word" else "penn_characters")
    rules = VocabularyRules(max_vocabulary, order=order)
    return build_corpus(texts, style, info | {"level": level}, rules, vocabulary)


@checked
def wikitext2(
    level: Annotated[str, OneOf(LEVELS)] = "word",
    path: str | Path | None = None,
    splits: Mapping[str, str] | None = None,
    max_vocabulary: int | None = None,
    order: Order = "first",
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """WikiText-2: Wikipedia articles, 2,088,628 / 217,646 / 245,569 tokens with `<eos>`, 33,278 types.

    Args, search order and errors as in `ptb` (folder `wikitext-2`); at level "char" every character is a
    token.

    Source: S. Merity, C. Xiong, J. Bradbury, R. Socher, Pointer Sentinel Mixture Models, 2016,
        arXiv:1609.07843.
    """
    texts, info = read_splits(_locate("wikitext-2", given_place(path, data_dir)), splits, "wikitext-2")
    style = Style("whitespace" if level == "word" else "characters")
    rules = VocabularyRules(max_vocabulary, order=order)
    return build_corpus(texts, style, info | {"level": level}, rules, vocabulary)


CORPORA: dict[str, Callable[..., Corpus]] = {
    "folder": folder,
    "file": file,
    "ptb": ptb,
    "wikitext-2": wikitext2,
    "wikitext-103": wikitext103,
    "enwik8": enwik8,
    "embedded": embedded,
}


def _locate(name: str, place: Path | None) -> Path:
    """The user's folder, else the environment's, else the cache, which alone is filled from the network."""
    if place is not None:
        return place / name if (place / name).is_dir() else place
    variable = os.environ.get(DATA_VARIABLE)
    if variable and (found := Path(variable).expanduser() / name).is_dir():
        return found
    return download.fetch(name)


def _key(level: str, lowercase: bool) -> Key:
    """Paragraphs that become the same tokens have to count as the same paragraph, or they would leak."""
    if level == "prose":
        return same_prose
    return (lambda text: same_words(text.lower())) if lowercase else same_words


def _kind(level: str) -> str:
    return "char" if level in ("char", "byte") else "word"
