"""`sparsernn answer`: what a trained reader makes of a paragraph and a question of yours."""

import re
from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData, WeightsDevice
from sparsernn.core.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(answer)


def answer(
    run: RunFolder,
    paragraph: Annotated[str, typer.Option(metavar="FILE|TEXT", help="Where the answer stands.")],
    question: Annotated[str, typer.Option(help="What to look for.")],
    data: UnusedData = None,
    device: WeightsDevice = "cpu",
) -> None:
    """Answer a question with a span of a paragraph, by the best weights of a run."""
    from sparsernn.runs.artifacts import answer as find
    from sparsernn.runs.artifacts import take_best
    from sparsernn.runs.assembly import open_weights

    text = paragraph_of(paragraph)
    opened = open_weights(run, device)
    take_best(opened)
    found = find(opened, text, question)
    end = found.start + len(found.text)
    print(f"answer       {found.text}")
    print(f"probability  {found.probability:.4f}")
    print(f"\n{text[: found.start]}>>{found.text}<<{text[end:]}")


def paragraph_of(given: str) -> str:
    """The text of a file of that name, where there is one, else what is given.

    Raises:
        InputError: no such file, and one word that looks like the name of one.

    >>> paragraph_of("No file is called like this.")
    'No file is called like this.'
    """
    from sparsernn.data.text_files import read_text

    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a character that no name has
        is_file = False
    if not is_file and re.fullmatch(r"[!-~]*(/[!-~]*|\.[a-z]{2,5})", given):
        raise InputError(f"--paragraph is '{given}', and there is no such file.")
    return read_text(given).strip() if is_file else given
