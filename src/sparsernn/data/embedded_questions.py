"""Questions that every Python already has an answer to: about the functions of its standard library."""

import ast
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast
from sparsernn.data.content_split import SPLITS, assign, position
from sparsernn.data.embedded_text import parsed, sources
from sparsernn.data.questions import Answer, Paragraph, Question, QuestionCorpus, digest

PER_PARAGRAPH = 4
_PLAIN = (ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp)


class Described(NamedTuple):
    """A function as its source describes it."""

    name: str
    parameters: tuple[str, ...]
    """Without self and cls."""
    defaults: dict[str, str]
    """Those that are short."""
    purpose: str
    """The first sentence of its docstring, without the full stop."""


@checked
def python_questions(paragraphs: Annotated[int, AtLeast(30)] | None = 400) -> QuestionCorpus:
    """Reference sheets of the standard library's functions, with questions whose answers are spans of the sheet.

    A paragraph is a few functions that stand next to each other in a source file, each with its signature and the
    first sentence of its docstring:

        fill(text, width=70): Fill a single paragraph of text, returning a new string.

    The questions are made by four rules: what a function does (its sentence), which function does that (its name),
    which parameter comes first, and what the default of a parameter is. Names, defaults and sentences are the
    library's own, the wording of the questions is not: a reader that has learnt them knows how to look things up, not
    English.

    A source file's functions are all in one split, by the sha256 of its name (80 / 10 / 10). The text belongs to the
    Python version; `info["python"]` says which one it was.

    Args:
        paragraphs: at most so many, from files of the library in an order that their names shuffle, at least 30;
            None: all.

    Raises:
        InputError: too few, or a Python without its sources.

    Example:
        >>> corpus = python_questions(paragraphs=40)
        >>> paragraph = corpus.splits["train"][0]
        >>> answer = paragraph.questions[0].answers[0]
        >>> paragraph.text[answer.start:].startswith(answer.text)
        True
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix(): path for path in sources(root)}
    every = (p for name in sorted(names, key=_shuffled) for p in _sheets(name, _described(names[name])))
    found = list(islice(_distinct(every), paragraphs))
    if len(found) < 30:
        raise InputError(f"'{root}' has no Python sources to ask about; take another corpus.")
    place = assign(dict.fromkeys(p.title for p in found))
    splits = {split: [p for p in found if place[p.title] == split] for split in SPLITS}
    info = {
        "name": "python-questions",
        "source": f"Python {platform.python_version()}, functions of the standard library",
        "python": platform.python_version(),
        "sha256": {split: digest(chosen) for split, chosen in splits.items()},
        "note": "the paragraphs differ between Python versions",
    }
    return QuestionCorpus(splits, info)


def _shuffled(name: str) -> float:
    """Another order than the one that decides the split, or the first files would all be tested on."""
    return position(f"order of {name}")


def _distinct(paragraphs: Iterator[Paragraph]) -> Iterator[Paragraph]:
    known: set[str] = set()
    for paragraph in paragraphs:
        if paragraph.text not in known:
            known.add(paragraph.text)
            yield paragraph


def _described(path: Path) -> list[Described]:
    """The documented functions and methods of a file that have a plain name; no name and no sentence twice."""
    nodes = ast.walk(parsed(path))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    made = (describe(node) for node in functions if ast.get_docstring(node))
    by_name = {d.name: d for d in made if _is_prose(d)}
    return list({d.purpose: d for d in by_name.values()}.values())


def _is_prose(f: Described) -> bool:
    """Whether the docstring begins with a sentence, not with a signature or an example."""
    words = f.purpose.split()
    return 3 <= len(words) <= 20 and words[0].isalpha() and words[0].lower() != f.name.lower()


def describe(node: ast.FunctionDef) -> Described:
    """What is asked about a function.

    Example:
        >>> describe(ast.parse("def f(self, a, b=3): 'Add up.'").body[0])
        Described(name='f', parameters=('a', 'b'), defaults={'b': '3'}, purpose='Add up')
    """
    given = [*node.args.posonlyargs, *node.args.args]
    values = [None] * (len(given) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [(a.arg, v) for a, v in zip(given, values, strict=True) if a.arg not in ("self", "cls")]
    defaults = {name: ast.unparse(v) for name, v in pairs if isinstance(v, _PLAIN)}
    short = {name: value for name, value in defaults.items() if 0 < len(value) <= 20}
    return Described(node.name, tuple(name for name, _ in pairs), short, _first_sentence(node))


def _first_sentence(node: ast.FunctionDef) -> str:
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    sentence = f"{' '.join(paragraph.split())} ".partition(". ")[0]
    return sentence.strip().rstrip(".:")


def _sheets(title: str, functions: Sequence[Described]) -> Iterator[Paragraph]:
    for k in range(0, len(functions) - 1, PER_PARAGRAPH):
        yield sheet(title, functions[k : k + PER_PARAGRAPH])


def sheet(title: str, functions: Sequence[Described]) -> Paragraph:
    """The paragraph about some functions, and its questions.

    Example:
        >>> made = sheet("m.py", [Described("f", ("a", "b"), {"b": "3"}, "Add up")])
        >>> made.text
        'f(a, b=3): Add up.'
        >>> [(question.text, question.answers[0].text) for question in made.questions][:2]
        [('What does f do?', 'Add up'), ('Which function does this: add up?', 'f')]
    """
    text, questions = "", list[Question]()
    for f in functions:
        head = f"{f.name}({', '.join(_parameter(f, name) for name in f.parameters)}): "
        questions += [
            Question(f"{title}:{f.name}:{kind}", asked, (Answer(len(text) + start, answer),))
            for kind, (asked, start, answer) in enumerate(_asked(f, head))
        ]
        text += f"{head}{f.purpose}. "
    return Paragraph(title, text.rstrip(), tuple(questions))


def _parameter(f: Described, name: str) -> str:
    return f"{name}={f.defaults[name]}" if name in f.defaults else name


def _asked(f: Described, head: str) -> Iterator[tuple[str, int, str]]:
    """Question, place of the answer, answer."""
    yield f"What does {f.name} do?", len(head), f.purpose
    purpose = f.purpose[0].lower() + f.purpose[1:]
    yield f"Which function does this: {purpose}?", 0, f.name
    place = len(f.name) + 1
    if f.parameters:
        yield f"What is the first parameter of {f.name}?", place, f.parameters[0]
    for name in f.parameters:
        if name in f.defaults:
            yield f"What is the default of {name} in {f.name}?", place + len(name) + 1, f.defaults[name]
        place += len(_parameter(f, name)) + 2
