"""The long benchmarks: WikiText-103 and enwik8, numbered once into the cache."""

import os
from collections.abc import Mapping
from pathlib import Path

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS
from sparsernn.data.long_text import long_corpus
from sparsernn.data.split_files import DATA_VARIABLE, given_place
from sparsernn.data.split_texts import folder_parts, parts_corpus
from sparsernn.data.text_corpus import Corpus, VocabularyRules
from sparsernn.data.text_parts import Part, file_stat
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import Order, Vocabulary

ENWIK8_BYTES = 100_000_000
ENWIK8_CUTS = (0, 90, 95, 100)
"""Per cent of the file where train, valid and test begin and end."""


@checked
def wikitext103(
    path: str | Path | None = None,
    splits: Mapping[str, str] | None = None,
    max_vocabulary: int | None = None,
    order: Order = "down",
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """WikiText-103: Wikipedia articles, 103,227,021 / 217,646 / 245,569 tokens with `<eos>`, 267,735 types.

    Files wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, looked for in `data_dir` or `path` (the folder,
    or one that has it as `wikitext-103`), then in $SPARSERNN_DATA/wikitext-103. They are numbered once into the
    cache.

    Args:
        path: see above.
        splits: as in `folder`.
        max_vocabulary: a smaller vocabulary than the benchmark's; None: the benchmark's.
        order: as in `folder`; "down", by falling frequency, is what the split softmax is fast with.
        data_dir: takes the place of `path`.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: a missing or undecodable file, a cache that cannot be written, a bad setting.

    Source: S. Merity, C. Xiong, J. Bradbury, R. Socher, Pointer Sentinel Mixture Models, 2016,
        arXiv:1609.07843.
    """
    place = _located(
        "wikitext-103", given_place(path, data_dir), "wiki.train.tokens and its valid and test files"
    )
    rules = VocabularyRules(max_vocabulary, order=order)
    info = {"name": "wikitext-103", "level": "word"}
    parts, facts = folder_parts(place, splits)
    return parts_corpus(parts, Style("whitespace"), facts | info, rules, vocabulary)


@checked
def enwik8(
    path: str | Path | None = None,
    order: Order = "first",
    *,
    data_dir: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """enwik8: the first 100,000,000 bytes of a dump of Wikipedia, split 90 / 5 / 5 million; the tokens are bytes.

    The file `enwik8`, unpacked, looked for as `data_dir` or `path` (the file, its folder, or one that has that folder
    as `enwik8`), then in $SPARSERNN_DATA/enwik8. It is numbered once into the cache.

    Args:
        path: see above.
        order: as in `folder`.
        data_dir: takes the place of `path`.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: no such file, one of fewer than 100 bytes, a cache that cannot be written, a bad setting.

    Source: M. Mahoney, Large Text Compression Benchmark, 2006, mattmahoney.net/dc/text.html.
    """
    file = _enwik8_file(given_place(path, data_dir))
    size = file_stat(file)[2]
    if size < ENWIK8_CUTS[-1]:
        raise InputError(f"'{file}' has {size} bytes; enwik8 has {ENWIK8_BYTES:,}, unpacked.")
    cuts = [size * cut // ENWIK8_CUTS[-1] for cut in ENWIK8_CUTS]
    parts = {split: Part(file, *cuts[k : k + 2]) for k, split in enumerate(SPLITS)}
    info = {
        "name": "enwik8",
        "level": "char",
        "source": str(file),
        "files": dict.fromkeys(SPLITS, file.name),
        "note": ""
        if size == ENWIK8_BYTES
        else f"{file.name} has {size:,} bytes, so it is not the standard enwik8",
    }
    return long_corpus(parts, Style("bytes"), info, VocabularyRules(order=order), vocabulary)


def _enwik8_file(given: Path | None) -> Path:
    if given is not None and given.is_file():
        return given
    place = _located("enwik8", given, "the file of that name, from mattmahoney.net/dc,")
    if not (place / "enwik8").is_file():
        raise InputError(f"'{place}' has no file enwik8; enwik8.zip, unpacked, is needed there.")
    return place / "enwik8"


def _located(name: str, given: Path | None, what: str) -> Path:
    if given is not None:
        return given / name if (given / name).is_dir() else given
    place = Path(os.environ.get(DATA_VARIABLE) or "nowhere").expanduser() / name
    if not place.is_dir():
        raise InputError(
            f"{name} is not here; get {what} and give the folder with --data or ${DATA_VARIABLE}."
        )
    return place
