"""Where things are printed: one console, plain when the output is not a terminal."""

import sys
from functools import lru_cache

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 200  # rich assumes 80 columns for a pipe, which breaks tables that a file could well hold


@lru_cache(maxsize=1)
def output() -> Console:
    """The console for standard output: colours on a terminal, plain text in a pipe or file.

    What it prints is text: brackets in a name, a tag or a token mean nothing.
    """
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def headed(name: str, text: str = "") -> Text:
    """A name in bold, and what there is to say about it.

    >>> headed("small[1]", "a model").plain
    'small[1]  a model'
    """
    return Text.assemble((name, "bold"), f"  {text}" if text else "")
