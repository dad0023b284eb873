"""Where things are printed: one console, plain when the output is not a terminal."""

import sys
from functools import lru_cache

from rich.console import Console

PIPE_WIDTH = 200  # rich assumes 80 columns for a pipe, which breaks tables that a file could well hold


@lru_cache(maxsize=1)
def output() -> Console:
    """The console for standard output: colours on a terminal, plain text in a pipe or file."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False)
