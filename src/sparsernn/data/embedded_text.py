"""Text that every Python already has, read in place: its language reference and its library's docstrings."""

import ast
import os
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.data.content_split import same_prose, split_units
from sparsernn.data.text_corpus import LEVELS, Corpus, build_corpus, own_rules
from sparsernn.data.text_files import sha256
from sparsernn.data.text_styles import Style, paragraphs_of
from sparsernn.data.vocabulary import Order, Vocabulary

# Not library code: installed packages, tests, and generated tables without prose.
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@checked
def embedded(
    variant: Literal["topics", "docstrings", "both"] = "topics",
    level: Annotated[str, OneOf(LEVELS)] = "word",
    lowercase: bool | None = None,
    max_vocabulary: int | None = 10_000,
    min_count: int | None = None,
    order: Order = "first",
    *,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """A corpus that needs no download: paragraphs of Python's own documentation.

    Repeated paragraphs (about a fifth of `topics`) are removed before splitting, or they would leak; two
    paragraphs that differ only in case, white space or numbers count as one. The text belongs to the Python
    version: `info["python"]` and `info["text_sha256"]` say which one it was.

    Args:
        variant: "topics" (language reference, as `help()` prints it), "docstrings" (of the standard library,
            read from its sources without importing them) or "both".
        level: "word" (punctuation split off, numbers are N, `<eos>` ends a paragraph) or "char".
        lowercase: None: yes for words, no for characters.
        max_vocabulary: size of the vocabulary at most, `<eos>` and `<unk>` included; None: no limit.
        min_count: rarer tokens of the training split become `<unk>`; None: 2, so that `<unk>` is trained, and 1 at
            level "char".
        order: as in `corpora.folder`.
        vocabulary: the vocabulary of an earlier run, so that ids agree.

    Raises:
        InputError: another variant or level, or a Python without its sources.

    Example:
        >>> corpus = embedded("topics")
        >>> corpus.splits["train"].dtype, corpus.vocabulary.unknown is not None
        (torch.int64, True)
    """
    text = VARIANTS[variant]()
    split = split_units(paragraphs_of(text), key=same_prose)
    style = Style(
        "prose" if level == "word" else "characters", lowercase if lowercase is not None else level == "word"
    )
    info = {
        "name": f"embedded/{variant}",
        "source": f"Python {platform.python_version()}, {variant}",
        "level": level,
        "python": platform.python_version(),
        "text_sha256": sha256(text),
        "duplicates_removed": split.duplicates,
        "note": "the text differs between Python versions",
    }
    rules = own_rules(level, max_vocabulary, min_count, order)
    return build_corpus(split.texts, style, info, rules, vocabulary)


def topics() -> str:
    """The language reference as `help("topics")` knows it, topics in alphabetical order.

    Raises:
        InputError: this Python comes without them.
    """
    try:
        from pydoc_data.topics import topics as found  # 460 k characters: loaded only when asked for
    except ImportError:
        raise InputError(
            "this Python has no pydoc_data.topics; take the corpus variant 'docstrings'."
        ) from None
    return "\n\n".join(found[name] for name in sorted(found))


def docstrings(folder: str | Path | None = None) -> str:
    """All docstrings of the Python files below `folder`, files in alphabetical order; nothing is imported.

    Args:
        folder: None: the standard library of the running Python.

    Raises:
        InputError: no docstring there (some distributions leave the sources out).
    """
    root = Path(folder or sysconfig.get_path("stdlib"))
    found = [text for path in sources(root) for text in _docstrings_of(path)]
    if not found:
        raise InputError(f"'{root}' has no Python sources with docstrings; take the corpus variant 'topics'.")
    return "\n\n".join(found)


def both() -> str:
    """The topics, then the docstrings."""
    return topics() + "\n\n" + docstrings()


VARIANTS: dict[str, Callable[[], str]] = {"topics": topics, "docstrings": docstrings, "both": both}


def sources(root: Path) -> list[Path]:
    """The Python files below a folder, in alphabetical order, without tests, packages and generated tables."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED]  # or the walk would visit every package
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; an empty one where it cannot be read.

    >>> parsed(Path("no such file.py")).body
    []
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in a docstring are not this program's business
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return ast.Module([], [])  # the library keeps a few files that are broken on purpose


def _docstrings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
