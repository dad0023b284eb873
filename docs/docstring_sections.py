"""The docstrings of this project in the form in which mkdocstrings reads them; the sources stay as they are."""

import re
from typing import Any

import griffe


class DocstringSections(griffe.Extension):
    """Examples as code, and a line for each name where one line of Args describes several."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object that has just been read."""
        if obj.docstring:
            obj.docstring.value = sections(obj.docstring.value)

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """What a module defines is its own, even where it imports it as well, as may be done for annotations."""
        for name in [name for name, origin in mod.imports.items() if origin == f"{mod.path}.{name}"]:
            del mod.imports[name]


def sections(text: str) -> str:
    r"""A docstring with its examples under "Examples:", or fenced where they stand alone, and each setting by itself.

    >>> print(sections("Add.\n\nArgs:\n    a, b: numbers.\n\nExample:\n    1"))
    Add.
    <BLANKLINE>
    Args:
        a: numbers.
        b: numbers.
    <BLANKLINE>
    Examples:
        1
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    # "Source: names," over several lines is a paragraph, not a box with its first line as the title
    text = re.sub(r"^(\w[\w -]*: \S.*)((?:\n +\S.*)+)", _paragraph, text, flags=re.MULTILINE)
    text = re.sub(r"^>>> .*(?:\n.+)*", _fenced, text, flags=re.MULTILINE)
    return re.sub(r"^    (\w+(?:, \w+)+): (.*(?:\n     .*)*)", _one_by_one, text, flags=re.MULTILINE)


def _paragraph(found: re.Match[str]) -> str:
    return found[1] + re.sub(r"\n +", "\n", found[2])


def _fenced(found: re.Match[str]) -> str:
    return f"```pycon\n{found[0]}\n```"


def _one_by_one(found: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", "))
