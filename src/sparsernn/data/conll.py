"""Tagged sentences from the files of a folder."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Between
from sparsernn.data.content_split import SPLITS, position
from sparsernn.data.split_files import DATA_VARIABLE, find_split, origins, place_of
from sparsernn.data.tag_columns import check_columns, read_columns
from sparsernn.data.tagged_sentences import Sentence, TaggedCorpus, digest
from sparsernn.data.text_files import read_text

ENDINGS = (".conllu", ".conll", ".conllx", ".iob", ".iob2", ".bio", ".tsv", ".txt", "")
"""Of files with tags, the preferred one first: treebanks have their plain text beside them as .txt."""


def conll(
    path: str | Path | None = None,
    tag: str = "upos",
    drop_tags: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    held_out: float = 0.0,
    columns: Mapping[str, int] | None = None,
    separator: str | None = None,
    *,
    data_dir: str | Path | None = None,
) -> TaggedCorpus:
    """Tagged sentences of yours: a folder with files for train, valid and test, two columns to CoNLL-U.

    A file belongs to a split by a whole word of its name (`split_files.SPLIT_NAMES`), such as wsj_train.conll,
    val.tsv.gz or eng.testa; its content says how it is laid out (`tag_columns.read_columns`): two columns,
    CoNLL-2000, CoNLL-2003 or CoNLL-U.

    Args:
        path: the folder.
        tag: which one is learnt: "upos" or "xpos" of CoNLL-U; "pos", "chunk" or "ner" of three and four columns.
        drop_tags: words with these tags are left out, such as the traces `-NONE-` of the Penn Treebank.
        splits: read another file for a split, {"train": "valid"} for example; the note of the corpus says so.
        held_out: part of the training sentences that is the valid split, in [0, 0.5], instead of a file: a sentence's
            content decides, so equal sentences stay together. 0: valid has a file.
        columns: {"word": 1, "tag": 3}: where they stand, counted from 1, where the layout is another one.
        separator: "tab", "space" (any white space) or the text that parts columns; None: found out.
        data_dir: takes the place of `path`.

    Raises:
        InputError: no folder, a missing, empty or malformed file, a bad setting.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for split in ("train", "valid", "test"):
        ...         _ = Path(folder, f"{split}.conll").write_text("Dogs\\tNOUN\\nbark\\tVERB\\n")
        ...     conll(folder).splits["train"]
        [Sentence(words=('Dogs', 'bark'), tags=('NOUN', 'VERB'))]
    """
    place = place_of("conll", path, data_dir)
    reader = _reader(tag, columns, separator)
    return _read(place, "conll", reader, drop_tags, splits, held_out)


def ud_ewt(
    path: str | Path | None = None,
    tag: str = "upos",
    drop_tags: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    held_out: float = 0.0,
    columns: Mapping[str, int] | None = None,
    separator: str | None = None,
    *,
    data_dir: str | Path | None = None,
) -> TaggedCorpus:
    """The English Web Treebank of Universal Dependencies, files en_ewt-ud-train.conllu, -dev, -test.

    Looked for in `data_dir` or `path` (the folder, or one that has it as `ud-ewt`), then in $SPARSERNN_DATA/ud-ewt.

    Args and errors as in `conll`.

    Source: N. Silveira and others, A Gold Standard Dependency Corpus for English, LREC 2014.
    """
    place = _ewt_folder(data_dir if data_dir is not None else path)
    return _read(place, "ud-ewt", _reader(tag, columns, separator), drop_tags, splits, held_out)


def _ewt_folder(given: str | Path | None) -> Path:
    if given is not None:
        place = Path(given).expanduser()
        return place / "ud-ewt" if (place / "ud-ewt").is_dir() else place
    place = Path(os.environ.get(DATA_VARIABLE) or "nowhere").expanduser() / "ud-ewt"
    if not place.is_dir():
        raise InputError(
            "UD English-EWT is not here; get en_ewt-ud-*.conllu from universaldependencies.org and give their folder "
            f"with --data or ${DATA_VARIABLE}, or train on the sentences that come with Python (pos/embedded)."
        )
    return place


Reader = Callable[[Path], list[Sentence]]


def _reader(tag: str, columns: Mapping[str, int] | None, separator: str | None) -> Reader:
    check_columns(tag, columns, separator)
    return lambda file: read_columns(read_text(file), file, tag, columns, separator)


def _read(
    place: Path,
    name: str,
    reader: Reader,
    drop_tags: Sequence[str],
    splits: Mapping[str, str] | None,
    held_out: float,
) -> TaggedCorpus:
    check_value("held_out", held_out, Annotated[float, Between(0, 0.5)])
    check_value("drop_tags", drop_tags, Sequence[str])
    origin = origins(splits)
    if held_out:
        origin["valid"] = origin["train"]
    files = {split: find_split(place, source, ENDINGS, "tagged words") for split, source in origin.items()}
    read = {file: _without(reader(file), drop_tags) for file in dict.fromkeys(files.values())}
    found = {split: read[file] for split, file in files.items()}
    if held_out:
        found |= _hold_out(found["train"], held_out)
    _check_filled(found, files)
    info = {
        "name": name,
        "source": str(place),
        "files": {split: file.name for split, file in files.items()},
        "sha256": {split: digest(sentences) for split, sentences in found.items()},
        "note": "; ".join(_notes(origin, held_out)),
    }
    return TaggedCorpus(found, info)


def _without(sentences: list[Sentence], tags: Collection[str]) -> list[Sentence]:
    """Words with these tags taken out, and sentences of which nothing is left."""
    kept = ([(w, t) for w, t in zip(*s, strict=True) if t not in tags] for s in sentences)
    return [Sentence(*map(tuple, zip(*pairs, strict=True))) for pairs in kept if pairs]


def _hold_out(sentences: list[Sentence], part: float) -> dict[str, list[Sentence]]:
    """Train and valid from one list, by the content of each sentence."""
    held = [position(" ".join(sentence.words)) < part for sentence in sentences]
    pairs = list(zip(sentences, held, strict=True))
    return {"train": [s for s, out in pairs if not out], "valid": [s for s, out in pairs if out]}


def _check_filled(found: Mapping[str, list[Sentence]], files: Mapping[str, Path]) -> None:
    empty = [split for split in SPLITS if not found[split]]
    if empty:
        raise InputError(
            f"'{files[empty[0]]}' leaves the {empty[0]} split without a sentence; it needs at least one."
        )


def _notes(origin: Mapping[str, str], held_out: float) -> list[str]:
    """What a reader must know: where a split is not what its name says."""
    read = {split: source for split, source in origin.items() if not (held_out and split == "valid")}
    notes = [f"{split} is read from the {source} file" for split, source in read.items() if split != source]
    if held_out:
        notes.append(f"valid is {held_out:.0%} of the training sentences, held out")
    return notes + (["results are not comparable with published ones"] if notes else [])


TREEBANKS: dict[str, Callable[..., TaggedCorpus]] = {"conll": conll, "ud-ewt": ud_ewt}
"""Corpora of tagged sentences by name."""
