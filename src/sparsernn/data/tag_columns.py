"""Tagged sentences as text in columns: CoNLL-U, CoNLL-2000, CoNLL-2003, or a word and its tag."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf, Size, Spelling
from sparsernn.data.tagged_sentences import Sentence

TAGS = ("upos", "xpos", "pos", "chunk", "ner")

CONLLU = {"upos": 4, "xpos": 5}
"""Where CoNLL-U, of ten columns with the word in the second, has its two kinds of part of speech."""

PLAIN = {"upos": 2, "xpos": 2, "pos": 2, "chunk": 3, "ner": 4}
"""Where files of three and four columns have a tag: CoNLL-2000 word, pos, chunk; CoNLL-2003 word, pos, chunk, ner."""

SEPARATORS = {"tab": "\t", "space": None}

DOCUMENT = "-DOCSTART-"
"""Stands for a word where CoNLL-2003 begins a new document."""

_ID = re.compile(r"(\d+)([-.]\d+)?", re.ASCII)
_BOM = "\ufeff"  # where files were put together
_BLANK = " \t\r\v\f"  # a no-break space can be part of a word
_SPACE = re.compile(r"[ \t]+")


class Layout(NamedTuple):
    """How a file is laid out.

    Attributes:
        columns: how many each line has.
        word: the column of the word, counted from 1.
        tag: the column of its tag.
        separator: what parts columns; None: white space.
        numbered: the first column is a word's number, as in CoNLL-U.
    """

    columns: int
    word: int
    tag: int
    separator: str | None
    numbered: bool


class Line(NamedTuple):
    """A line of a file, with neither white space nor byte-order marks around it, and where it stands."""

    text: str
    where: str

    def parts(self, separator: str | None) -> list[str]:
        """Its columns; None parts at spaces and tabs, as many as there are."""
        if separator is None:
            return _SPACE.split(self.text)
        return [part.strip(_BLANK) for part in self.text.split(separator)]


def read_columns(
    text: str,
    name: str | Path = "the text",
    tag: str = "upos",
    columns: Mapping[str, int] | None = None,
    separator: str | None = None,
) -> list[Sentence]:
    """Sentences of a text with a word per line and an empty line between sentences.

    Which columns are read follows from their number, which the first line has and all others need:
    two: a word and its tag; three: CoNLL-2000 (word, pos, chunk); four: CoNLL-2003 (word, pos, chunk, ner); ten that
    begin with a number: CoNLL-U, where the lines of multiword tokens (`1-2`) and empty nodes (`1.1`) are left out.
    For anything else `columns` is needed. Several empty lines make no empty sentence, the last sentence needs none
    after it, and lines `-DOCSTART-` only end a sentence.

    Args:
        text: the contents.
        name: of the file, for messages; one that ends in .conllu (or .conllu.gz) has to be CoNLL-U.
        tag: which tags: "upos" or "xpos" of CoNLL-U; "pos" (which "upos" and "xpos" also mean), "chunk" or "ner" of
            three and four columns.
        columns: {"word": 1, "tag": 3}: where they stand, counted from 1.
        separator: "tab", "space" (any white space), or the text that parts columns; None: tabs where the first line
            has one, else white space.

    Raises:
        InputError: a bad setting, a file whose columns are not known, a line with another number of columns, an empty
            word or tag, or no tag anywhere (`_`); the sentence names file and line.

    Example:
        >>> read_columns("a X\\n\\n\\nb Y")
        [Sentence(words=('a',), tags=('X',)), Sentence(words=('b',), tags=('Y',))]
        >>> read_columns("Dogs NNS B-NP O\\nbark VBP B-VP O", tag="chunk")
        [Sentence(words=('Dogs', 'bark'), tags=('B-NP', 'B-VP'))]

    Source: universaldependencies.org/format.html; E. Tjong Kim Sang and S. Buchholz, "Introduction to the CoNLL-2000
    Shared Task: Chunking", 2000, arXiv:cs/0009008; E. Tjong Kim Sang and F. De Meulder, "Introduction to the
    CoNLL-2003 Shared Task: Language-Independent Named Entity Recognition", 2003, arXiv:cs/0306050.
    """
    check_columns(tag, columns, separator)
    lines = list(_lines(text, name))
    layout = _layout(lines, str(name), tag, columns, separator)
    found = _sentences(_row(line, layout) for line in lines) if layout else []
    if found and layout:
        _check_not_blank(found, layout, str(name))
    return found


def _check_not_blank(found: list[Sentence], layout: Layout, name: str) -> None:
    """Refuse a file that has the underscore of CoNLL for every word (its text is not free) or for every tag."""
    for what, column, k in (("word", layout.word, 0), ("tag", layout.tag, 1)):
        if all(value == "_" for sentence in found for value in sentence[k]):
            raise InputError(
                f"'{name}' has '_' in column {column} for every {what}, which means that it holds none; take another "
                f"file, tag or columns."
            )


PARTING = Spelling("(?s).+", "tab, space or the text that parts columns")


class Columns(TypedDict):
    """Where word and tag stand, counted from 1."""

    word: Size
    tag: Size


def check_columns(tag: str, columns: Mapping[str, int] | None, separator: str | None) -> None:
    """Raise InputError unless these are settings of `read_columns`.

    >>> check_columns("upos", {"word": 1, "tag": 2}, "tab")
    """
    check_value("tag", tag, Annotated[str, OneOf(TAGS)])
    check_value("separator", separator, Annotated[str, PARTING] | None)
    check_value("columns", columns, Columns | None)
    if columns is not None and columns["word"] == columns["tag"]:
        raise InputError(f"columns is {dict(columns)!r}; word and tag must stand in two different ones.")


def _lines(text: str, name: str | Path) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.replace(_BOM, "").strip("\r\v\f ")
        yield Line(bare if bare.strip(_BLANK) else "", f"'{name}', line {number}")


def _layout(
    lines: list[Line], name: str, tag: str, columns: Mapping[str, int] | None, separator: str | None
) -> Layout | None:
    """How a file is laid out, by its first line with words; None for a file without one."""
    filled = [line for line in lines if line.text and not line.text.startswith(DOCUMENT)]
    without_comments = [line for line in filled if not line.text.startswith("#")]
    if not filled:
        return None
    first = (without_comments or filled)[0]
    parted = _separator(without_comments or filled, separator)
    parts = first.parts(parted)
    numbered = len(parts) == 10 and _ID.fullmatch(parts[0]) is not None
    if not numbered and name.lower().removesuffix(".gz").endswith(".conllu"):
        _refuse_conllu(first, parts)
    if not numbered:  # only CoNLL-U has comments; elsewhere # is a word
        first, parts = filled[0], filled[0].parts(parted)
    known = columns or _known(first, parts, tag, numbered, _counts(filled, parted))
    if max(known.values()) > len(parts):
        raise InputError(
            f"{first.where} has {len(parts)} columns, but column {max(known.values())} is asked for (columns is "
            f"{columns!r}, tag is '{tag}')."
        )
    return Layout(len(parts), known["word"], known["tag"], parted, numbered)


def _separator(lines: list[Line], given: str | None) -> str | None:
    if given is None:
        return "\t" if any("\t" in line.text for line in lines[:100]) else None
    return SEPARATORS.get(given, given)


def _refuse_conllu(line: Line, parts: list[str]) -> None:
    if len(parts) != 10:
        raise InputError(f"{line.where} has {len(parts)} columns; CoNLL-U has ten.")
    raise InputError(f"{line.where} begins with {parts[0]!r}; {_ALLOWED_ID}.")


_ALLOWED_ID = "a line of CoNLL-U begins with the number of a word, such as 3, 3-4 or 3.1"


def _known(line: Line, parts: list[str], tag: str, numbered: bool, counts: bool) -> Mapping[str, int]:
    """Where word and tag stand in a layout that is known."""
    if numbered:
        if tag not in CONLLU:
            raise InputError(f"tag is '{tag}'; it must be {' or '.join(CONLLU)} for CoNLL-U, or say columns.")
        return {"word": 2, "tag": CONLLU[tag]}
    if len(parts) == 2:
        return {"word": 1, "tag": 2}
    if len(parts) not in (3, 4):
        raise InputError(
            f"{line.where} is {_shown(line.text)} with {_columns(parts)}; a word and its tag are needed (two "
            "columns, CoNLL-2000's three, CoNLL-2003's four, CoNLL-U's ten), or columns must say where they stand."
        )
    if counts:
        raise InputError(
            f"{line.where} begins with the number of a word, and its other columns are not known; say where word and "
            "tag stand, such as columns: {word: 2, tag: 3}."
        )
    return {"word": 1, "tag": PLAIN[tag]}


def _counts(lines: list[Line], separator: str | None) -> bool:
    """Whether the first column counts words from 0 or 1, by the first lines."""
    firsts = [line.parts(separator)[0] for line in lines[:2]]
    return firsts in (["0"], ["1"], ["0", "1"], ["1", "2"], ["0", "0"], ["1", "1"])


def _row(line: Line, layout: Layout) -> tuple[str, str] | None:
    """The word and the tag of a line; None where a sentence ends."""
    if not line.text:
        return None
    if layout.numbered and line.text.startswith("#"):
        return _LEFT_OUT
    parts = line.parts(layout.separator)
    if not layout.numbered and parts[0] == DOCUMENT:
        return None
    if len(parts) != layout.columns:
        _refuse_line(line, parts, layout)
    if layout.numbered and not _is_word(parts[0], line):
        return _LEFT_OUT
    word, tag = parts[layout.word - 1], parts[layout.tag - 1]
    if not word or not tag:
        lacks = "tag" if word else "word"
        raise InputError(
            f"{line.where} is {_shown(line.text)} with no {lacks}; a word and its tag are needed."
        )
    return word, tag


_LEFT_OUT = ("", "")
"""A line that is neither a word nor the end of a sentence."""


def _is_word(number: str, line: Line) -> bool:
    """Whether the number of a line of CoNLL-U is a word's, not a multiword token's or an empty node's."""
    found = _ID.fullmatch(number)
    if found is None:
        raise InputError(f"{line.where} begins with {number!r}; {_ALLOWED_ID}.")
    return found[2] is None


def _refuse_line(line: Line, parts: list[str], layout: Layout) -> None:
    if layout.numbered:
        raise InputError(f"{line.where} has {len(parts)} columns; CoNLL-U has ten.")
    raise InputError(
        f"{line.where} is {_shown(line.text)} with {_columns(parts)}, and the first line has {layout.columns}; a "
        "word and its tag are needed in each."
    )


def _columns(parts: list[str]) -> str:
    return f"{len(parts)} column{'s' if len(parts) > 1 else ''}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _sentences(rows: Iterable[tuple[str, str] | None]) -> list[Sentence]:
    """Rows put together; None ends a sentence."""
    found: list[list[tuple[str, str]]] = [[]]
    for row in rows:
        if row is None:
            if found[-1]:
                found.append([])
        elif row is not _LEFT_OUT:
            found[-1].append(row)
    return [Sentence(*map(tuple, zip(*pairs, strict=True))) for pairs in found if pairs]
