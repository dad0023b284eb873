"""`sparsernn data`: which corpora are here, get one, check a folder of one's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

commands = typer.Typer(no_args_is_help=False, invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    app.add_typer(commands, name="data", help="List the corpora; download one; check a folder of your own.")


@commands.callback()
def data(context: typer.Context) -> None:
    """List the corpora; download one; check a folder of your own."""
    if context.invoked_subcommand is None:
        list_corpora()


@commands.command("list")
def list_corpora() -> None:
    """List the corpora and say which are on this machine."""
    from sparsernn.cli.console_tables import table
    from sparsernn.report.console import output

    made = table("corpus", "here", "what")
    for name, here, what in corpora():
        made.add_row(name, here, what)
    output().print(made)


@commands.command()
def get(name: Annotated[str, typer.Argument(help="ptb, wikitext-2 or mnist.")]) -> None:
    """Download a corpus into the cache and check its files against known hashes."""
    from sparsernn.data.download import fetch

    print(fetch(name))


@commands.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with train, valid and test.")],
) -> None:
    """Read a folder as a corpus: its files, tokens, vocabulary, and whether it is a known corpus."""
    from sparsernn.data import CORPORA

    corpus = CORPORA["folder"](data_dir=folder)
    for split, ids in corpus.splits.items():
        file = corpus.info["files"][split]
        print(f"{split:<6} {file:<18} {len(ids):>12,} tokens   sha256 {corpus.info['sha256'][split][:16]}")
    print(f"vocabulary {len(corpus.vocabulary):,} words that stand at least twice in train")
    print(f"known as   {known_as(corpus.info) or 'nothing known: a corpus of your own'}")


def corpora() -> list[tuple[str, str, str]]:
    """Name, place and description of every corpus."""
    return [
        ("embedded", "with every Python", "Python's own documentation: variants topics, docstrings, both"),
        ("ptb", place("ptb"), "Penn Treebank in Mikolov's preparation, 10,000 words"),
        ("wikitext-2", place("wikitext-2"), "Wikipedia articles, 33,278 words"),
        ("folder", "--data DIR", "a folder of yours with train.txt, valid.txt, test.txt"),
        ("file", "--data FILE", "one file of yours, split by the content of its paragraphs"),
        ("mnist", place("mnist"), "70,000 pictures of digits, read pixel by pixel"),
        ("python-roles", "with every Python", "tagged: names in its own library, and what each does there"),
        ("ud-ewt", treebank("ud-ewt"), "tagged: English web text of Universal Dependencies, CoNLL-U"),
        ("conll", "--data DIR", "tagged: files of yours, two columns or CoNLL-U"),
    ]


def place(name: str) -> str:
    """Where a downloadable corpus lies on this machine; 'not here' if it does not."""
    from sparsernn.data.download import cache_folder, status

    for folder in (*_own_place(name), cache_folder() / name):
        if folder.is_dir() and "missing" not in status(name, folder).values():
            return str(folder)
    return "not here"


def treebank(name: str) -> str:
    """Where the files of a treebank lie, which is not downloaded; how to say it if they are in no known place."""
    found = [folder for folder in _own_place(name) if folder.is_dir() and any(folder.glob("*.conllu"))]
    return str(found[0]) if found else "--data DIR"


def _own_place(name: str) -> list[Path]:
    """The folder of a corpus among the user's own data, if there are any."""
    import os

    from sparsernn.data.corpora import DATA_VARIABLE

    variable = os.environ.get(DATA_VARIABLE)
    return [Path(variable).expanduser() / name] if variable else []


def known_as(info: dict[str, Any]) -> str:
    """The downloadable corpus whose training file has this hash; '' for a corpus of one's own."""
    from sparsernn.data.download import DATASETS, standard_digest

    digest = f"sha256:{info['sha256']['train']}"
    return next((name for name in DATASETS if standard_digest(name, "train") == digest), "")
