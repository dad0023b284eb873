"""A text for each split from the files of a folder: in memory or, where it is long, numbered in the cache."""

from collections.abc import Mapping
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data import download
from sparsernn.data.content_split import SPLITS
from sparsernn.data.long_text import Parts, is_long, long_corpus
from sparsernn.data.split_files import find_split, origins
from sparsernn.data.subwords import count_words
from sparsernn.data.text_corpus import Corpus, VocabularyRules, build_corpus
from sparsernn.data.text_files import decode_text, read_bytes, sha256, unpacked
from sparsernn.data.text_parts import Part
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import Vocabulary

ENDINGS = (".txt", ".tokens", ".raw", "")
"""Of the files of a folder, the preferred one first."""


def folder_parts(place: Path, splits: Mapping[str, str] | None) -> tuple[Parts, dict[str, Json]]:
    """Which file of a folder each split is read from, and what is to be known of that.

    Raises:
        InputError: no folder, or a missing file.
    """
    origin = origins(splits)
    files = {name: find_split(place, name, ENDINGS) for name in dict.fromkeys(origin.values())}
    parts = {split: Part(files[origin[split]]) for split in SPLITS}
    facts = {
        "source": str(place),
        "files": {split: part.path.name for split, part in parts.items()},
        "note": "; ".join(notes_on_origins(origin)),
    }
    return parts, facts


def parts_corpus(
    parts: Parts,
    style: Style,
    info: Mapping[str, Json],
    rules: VocabularyRules,
    vocabulary: Vocabulary | None,
) -> Corpus:
    """The corpus of files; its ids stay on the disk where its text is long (`long_text.LONG`).

    Raises:
        InputError: an unreadable file; see `text_corpus.build_corpus` and `long_corpus`.
    """
    if is_long(parts):
        return long_corpus(parts, style, info, rules, vocabulary)
    data = {split: unpacked(read_bytes(part.path), part.path) for split, part in parts.items()}
    texts = {split: _text(content, parts[split].path, style) for split, content in data.items()}
    facts = {**info, "sha256": {split: sha256(content) for split, content in data.items()}}
    if style.name == "subword":
        facts["words"] = {split: count_words(text) for split, text in texts.items()}
    return build_corpus(texts, style, facts, rules, vocabulary)


def _text(data: bytes, path: Path, style: Style) -> str:
    if style.name != "bytes":
        return decode_text(data, path)
    if not data:
        raise InputError(f"'{path}' is empty; a corpus needs text.")
    return data.decode("utf-8", "surrogateescape")  # and back again, byte for byte


def read_splits(
    place: Path, splits: Mapping[str, str] | None, dataset: str
) -> tuple[dict[str, str], dict[str, Json]]:
    """The texts of a benchmark that is known by the hashes of its files, and what is to be known of them."""
    origin = origins(splits)
    data = {
        name: (found, unpacked(read_bytes(found), found))
        for name in dict.fromkeys(origin.values())
        for found in [find_split(place, name, ENDINGS)]
    }
    files = {split: data[origin[split]] for split in SPLITS}
    texts = {split: decode_text(content, path) for split, (path, content) in files.items()}
    notes = notes_on_origins(origin)
    notes += [_note_on_file(dataset, name, *data[name]) for name in SPLITS if name in data]
    info = {
        "name": dataset,
        "source": str(place),
        "files": {split: path.name for split, (path, _) in files.items()},
        "sha256": {split: sha256(content) for split, (_, content) in files.items()},
        "note": "; ".join(note for note in notes if note),
    }
    return texts, info


def notes_on_origins(origin: Mapping[str, str]) -> list[str]:
    """What a reader must know: where a split is not what its name says, and which splits are one text."""
    moved = [f"{split} is read from the {name} file" for split, name in origin.items() if split != name]
    pairs = (("train", "valid"), ("train", "test"), ("valid", "test"))
    shared = [f"{a} and {b} are the same text" for a, b in pairs if origin[a] == origin[b]]
    warning = ["results are not comparable with published ones"] if moved else []
    return moved + shared + warning


def _note_on_file(dataset: str, split: str, path: Path, content: bytes) -> str:
    standard = download.matches(content, download.standard_digest(dataset, split))
    return "" if standard else f"{path.name} is not the standard {dataset} file"
