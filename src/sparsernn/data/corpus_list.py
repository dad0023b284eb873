"""What data there are to name in a recipe, and which of them lie on this machine: read off the registries."""

import inspect
import typing
from collections.abc import Callable
from typing import NamedTuple

from sparsernn.core.packages import is_installed
from sparsernn.data import CORPORA
from sparsernn.data.digit_images import IMAGES, Images
from sparsernn.data.download import DATASETS, cache_folder, status
from sparsernn.data.questions import QuestionCorpus
from sparsernn.data.series_corpus import SeriesCorpus
from sparsernn.data.split_files import own_folder
from sparsernn.data.tagged_sentences import TaggedCorpus
from sparsernn.data.text_corpus import Corpus

FILES_OF = {"mnist-10k": "mnist", "squad-articles": "squad"}
"""Corpora that read another one's files."""
COMES_WITH = {"digits": ("sklearn", "scikit-learn"), "vowels": ("aeon", "--no-deps aeon")}
"""Corpora that an installed package brings along."""
READ_AS: dict[object, str] = {
    Corpus: "text",
    TaggedCorpus: "tags",
    QuestionCorpus: "questions",
    Images: "pictures",
    SeriesCorpus: "series",
}

NOT_HERE = "not here"
COMES_ALONG = "comes along"


class Listed(NamedTuple):
    """A corpus of the registries.

    Attributes:
        name: as a recipe has it.
        read_as: "text", "tags", "questions", "pictures" or "series", which decides what tasks take it; "" where the
            function does not say what it returns.
        place: its folder on this machine, `COMES_ALONG` for what needs no files, `NOT_HERE` for what can be
            downloaded, else the option that names it.
        about: the first sentence of its docstring.
    """

    name: str
    read_as: str
    place: str
    about: str


def listed() -> list[Listed]:
    """Every corpus and every set of pictures, in the order of the registries.

    >>> [(one.name, one.read_as, one.place) for one in listed() if one.name in ("folder", "python-roles")]
    [('folder', 'text', '--data PLACE'), ('python-roles', 'tags', 'comes along')]
    """
    return [
        Listed(name, read_as(made), _place(name, made), about(made)) for name, made in _registered().items()
    ]


def _registered() -> dict[str, Callable[..., object]]:
    return {**CORPORA, **IMAGES}


def read_as(made: Callable[..., object]) -> str:
    """What a corpus function returns, in a word; "" where it does not say."""
    try:
        return READ_AS.get(typing.get_type_hints(made).get("return"), "")
    except (NameError, TypeError):  # written for a type checker only
        return ""


def about(made: Callable[..., object]) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((inspect.getdoc(made) or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".")


def _place(name: str, made: Callable[..., object]) -> str:
    if "path" not in inspect.signature(made).parameters:
        return COMES_ALONG
    files = FILES_OF.get(name, name)
    if files in DATASETS:
        return place(files)
    if mine := own_folder(files):
        return str(mine)
    if name not in COMES_WITH:
        return "--data PLACE"
    package, install = COMES_WITH[name]
    return COMES_ALONG if is_installed(package) else f"pip install {install}"


def place(name: str) -> str:
    """Where a corpus that can be downloaded lies on this machine; `NOT_HERE` if it does not."""
    mine = own_folder(name)
    for folder in (*([mine] if mine else []), cache_folder() / name):
        if folder.is_dir() and "missing" not in status(name, folder).values():
            return str(folder)
    return NOT_HERE
