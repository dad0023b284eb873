"""Sentences with tags that every Python already has: the names in its library's statements, and what each does."""

import ast
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast
from sparsernn.data.content_split import SPLITS, assign, position
from sparsernn.data.embedded_text import parsed, sources
from sparsernn.data.tagged_sentences import Sentence, TaggedCorpus, digest

Place = tuple[int, int]
_LOADED = {ast.Load: "load", ast.Store: "store", ast.Del: "delete"}


@checked
def python_roles(sentences: Annotated[int, AtLeast(30)] | None = 5_000) -> TaggedCorpus:
    """Names of the standard library's statements, in their order, each with its syntactic role as tag.

    A sentence is the names of one statement (of a compound one, those of its header), with nothing between them:
    `x = self.count(key)` is "x self count key", tagged "store load method load". Which role a name has depends on
    its neighbours: see `docs/pos.md` for how far the name alone gets.

    Statements with the same names count once, those with fewer than two names not at all. A sentence's
    split depends on nothing but its own words (80 / 10 / 10), so no sentence is in two splits. The text belongs to
    the Python version; `info["python"]` says which one it was.

    Args:
        sentences: at most so many, from files of the library in an order that their names shuffle, at least 30;
            None: all.

    Raises:
        InputError: too few, or a Python without its sources.

    Example:
        >>> corpus = python_roles(sentences=300)
        >>> sum(map(len, corpus.splits.values())), "method" in {tag for s in corpus.splits["train"] for tag in s.tags}
        (300, True)
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(sources(root), key=lambda path: position(path.relative_to(root).as_posix()))
    found = _first_distinct((s for path in files for s in _sentences_of(path)), sentences)
    if len(found) < 30:
        raise InputError(f"'{root}' has no Python sources to take names from; take another corpus.")
    place = assign(found)
    splits = {split: [s for key, s in found.items() if place[key] == split] for split in SPLITS}
    info = {
        "name": "python-roles",
        "source": f"Python {platform.python_version()}, names of the standard library",
        "python": platform.python_version(),
        "sha256": {split: digest(chosen) for split, chosen in splits.items()},
        "note": "the sentences differ between Python versions",
    }
    return TaggedCorpus(splits, info)


def _first_distinct(sentences: Iterable[Sentence], maximum: int | None) -> dict[str, Sentence]:
    """Sentences by their words; the first with these words stays."""
    found: dict[str, Sentence] = {}
    for sentence in sentences:
        found.setdefault(" ".join(sentence.words), sentence)
        if len(found) == maximum:
            break
    return found


def _sentences_of(path: Path) -> Iterator[Sentence]:
    yield from roles(parsed(path))


def roles(tree: ast.AST) -> Iterator[Sentence]:
    """The statements of a syntax tree that have at least two names, as sentences.

    Example:
        >>> for sentence in roles(ast.parse("def f(a, b=c):\\n    return a.join(b, key=c.d)")):
        ...     print(*map("/".join, zip(*sentence)))
        f/function a/parameter b/parameter c/load
        a/load join/method b/load key/keyword c/load d/attribute
    """
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt):
            names = sorted(_names(statement))
            if len(names) > 1:
                yield Sentence(tuple(name for _, name, _ in names), tuple(role for _, _, role in names))


def _names(statement: ast.stmt) -> Iterator[tuple[Place, str, str]]:
    """Where each name of a statement stands, the name and its role; statements inside it are left out."""
    yield from _of_definition(statement)
    called: set[int] = set()
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            called.add(id(node.func))
        yield from _own(node, id(node) in called)
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def _of_definition(statement: ast.stmt) -> Iterator[tuple[Place, str, str]]:
    """The name that a `def` or `class` gives: the tree says where the statement begins, and that is before it."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        yield (statement.lineno, statement.col_offset), statement.name, "function"
    elif isinstance(statement, ast.ClassDef):
        yield (statement.lineno, statement.col_offset), statement.name, "class"


def _own(node: ast.AST, called: bool) -> Iterator[tuple[Place, str, str]]:
    if isinstance(node, ast.Name):
        yield _begin(node), node.id, "call" if called else _LOADED[type(node.ctx)]
    elif isinstance(node, ast.Attribute):
        yield _end(node), node.attr, "method" if called else "attribute"
    elif isinstance(node, ast.arg):
        yield _begin(node), node.arg, "parameter"
    elif isinstance(node, ast.keyword) and node.arg:
        yield _begin(node), node.arg, "keyword"
    elif isinstance(node, ast.alias):
        yield _begin(node), node.name, "import"


def _begin(node: ast.expr | ast.arg | ast.keyword | ast.alias) -> Place:
    return node.lineno, node.col_offset


def _end(node: ast.Attribute) -> Place:
    """Of an attribute the tree says where the whole expression ends, and that is where its name does."""
    return node.end_lineno or node.lineno, (node.end_col_offset or 0) - len(node.attr)
