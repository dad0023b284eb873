"""Tagged sentences from files: two columns (a word and its tag), or CoNLL-U."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS, position
from sparsernn.data.corpora import DATA_VARIABLE
from sparsernn.data.tagged_sentences import Sentence, TaggedCorpus, digest
from sparsernn.data.text_files import decode_text, read_bytes

COLUMNS = {"upos": 3, "xpos": 4}
"""Where CoNLL-U has its two kinds of tag: the universal one and the treebank's own."""

_SPELLINGS = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
_ENDINGS = (".conll", ".conllu", ".txt")


def conll(
    path: str | Path | None = None,
    tag: str = "upos",
    drop_tags: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    held_out: float = 0.0,
    *,
    data_dir: str | Path | None = None,
) -> TaggedCorpus:
    """A folder with a file for each split, whose name ends in train, valid or dev, test, and .conll, .conllu or .txt.

    A file that ends in .conllu is read as CoNLL-U, any other as two columns (`read_two_columns`).

    Args:
        path: the folder.
        tag: of CoNLL-U, "upos" or "xpos".
        drop_tags: words with these tags are left out, such as the traces `-NONE-` of the Penn Treebank.
        splits: read another file for a split, {"train": "valid"} for example; the note of the corpus says so.
        held_out: part of the training sentences that is the valid split, in [0, 0.5], instead of a file: a sentence's
            content decides, so equal sentences stay together. 0: valid has a file.
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
    given = data_dir if data_dir is not None else path
    if given is None:
        raise InputError("the corpus 'conll' has no path; give one as task.corpus.path or with --data.")
    return _read(Path(given).expanduser(), "conll", tag, drop_tags, splits, held_out)


def ud_ewt(
    path: str | Path | None = None,
    tag: str = "upos",
    drop_tags: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    held_out: float = 0.0,
    *,
    data_dir: str | Path | None = None,
) -> TaggedCorpus:
    """The English Web Treebank of Universal Dependencies, files en_ewt-ud-train.conllu, -dev, -test.

    Looked for in `data_dir` or `path` (the folder, or one that has it as `ud-ewt`), then in $SPARSERNN_DATA/ud-ewt.

    Args and errors as in `conll`.

    Source: N. Silveira and others, A Gold Standard Dependency Corpus for English, LREC 2014.
    """
    place = _ewt_folder(data_dir if data_dir is not None else path)
    return _read(place, "ud-ewt", tag, drop_tags, splits, held_out)


def read_two_columns(text: str, name: str | Path = "the text") -> list[Sentence]:
    """Sentences of a text with a word and its tag per line and an empty line between sentences.

    Columns are parted by a tab, or by white space where a line has no tab. Several empty lines make no empty
    sentence, and the last sentence needs none after it.

    Args:
        text: the contents.
        name: of the file, for messages.

    Raises:
        InputError: a line without exactly two columns; the sentence names it.

    Example:
        >>> read_two_columns("a X\\n\\n\\nb Y")
        [Sentence(words=('a',), tags=('X',)), Sentence(words=('b',), tags=('Y',))]
    """
    return _sentences(_two_column_rows(text, name))


def _two_column_rows(text: str, name: str | Path) -> Iterable[tuple[str, str] | None]:
    for number, line in enumerate(text.split("\n"), 1):
        parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if line.strip() and (len(parts) != 2 or not all(parts)):
            raise InputError(f"'{name}', line {number} is {line!r}; a word and its tag are needed.")
        yield (parts[0], parts[1]) if line.strip() else None


def read_conllu(text: str, tag: str = "upos", name: str | Path = "the text") -> list[Sentence]:
    """Sentences of a CoNLL-U text; the lines of multiword tokens (`1-2`) and empty nodes (`1.1`) are left out.

    Args:
        text: the contents: ten columns parted by tabs, comments after `#`, an empty line between sentences.
        tag: which column the tags come from, "upos" or "xpos".
        name: of the file, for messages.

    Raises:
        InputError: another `tag`, or a line without ten columns; the sentence names it.

    Example:
        >>> rest = "\\t".join("_" * 5)
        >>> read_conllu(f"# a comment\\n1\\tGo\\tgo\\tVERB\\tVB\\t{rest}\\n", "xpos")
        [Sentence(words=('Go',), tags=('VB',))]

    Source: the format's description at universaldependencies.org/format.html.
    """
    if tag not in COLUMNS:
        raise InputError(f"tag is '{tag}'; it must be {' or '.join(COLUMNS)}.")
    return _sentences(_conllu_rows(text, COLUMNS[tag], name))


def _conllu_rows(text: str, column: int, name: str | Path) -> Iterable[tuple[str, str] | None]:
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.split("\t")
        if not line.strip():
            yield None
        elif len(parts) != 10 and not line.startswith("#"):
            raise InputError(f"'{name}', line {number} has {len(parts)} columns; CoNLL-U has ten.")
        elif parts[0].isdigit() and len(parts) == 10:
            yield parts[1], parts[column]


def _sentences(rows: Iterable[tuple[str, str] | None]) -> list[Sentence]:
    """Rows put together; None ends a sentence."""
    found: list[list[tuple[str, str]]] = [[]]
    for row in rows:
        if row is not None:
            found[-1].append(row)
        elif found[-1]:
            found.append([])
    return [Sentence(*map(tuple, zip(*pairs, strict=True))) for pairs in found if pairs]


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


def _read(
    place: Path,
    name: str,
    tag: str,
    drop_tags: Sequence[str],
    splits: Mapping[str, str] | None,
    held_out: float,
) -> TaggedCorpus:
    if not 0 <= held_out <= 0.5:
        raise InputError(f"held_out is {held_out}; it must lie in [0, 0.5].")
    origin = {split: split for split in SPLITS} | dict(splits or {})
    if not set(origin) | set(origin.values()) <= set(SPLITS):
        raise InputError(f"splits is {splits!r}; both sides must be train, valid or test.")
    if held_out:
        origin["valid"] = origin["train"]
    files = {split: _find(place, source) for split, source in origin.items()}
    found = {split: _without(_parse(file, tag), drop_tags) for split, file in files.items()}
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


def _find(place: Path, split: str) -> Path:
    """The file of one split: the first, in alphabetical order, whose name ends as it should."""
    if not place.is_dir():
        raise InputError(
            f"'{place}' is not a folder; a folder with tagged train, valid and test files is needed."
        )
    wanted = [spelling + ending for spelling in _SPELLINGS[split] for ending in _ENDINGS]
    for file in sorted(place.iterdir()):
        if file.name.lower().endswith(tuple(wanted)):
            return file
    raise InputError(f"'{place}' has no {split} file; its name must end in {', '.join(wanted)}.")


def _parse(file: Path, tag: str) -> list[Sentence]:
    text = decode_text(read_bytes(file), file)
    if file.suffix.lower() == ".conllu":
        return read_conllu(text, tag, file)
    return read_two_columns(text, file)


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
