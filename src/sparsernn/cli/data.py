"""`sparsernn data`: which corpora are here, get one, check a folder of one's own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sparsernn.core.plain import Json

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
    from sparsernn.data.corpus_list import listed
    from sparsernn.report.console import output

    made = table("corpus", "read as", "here", "what")
    for row in listed():
        made.add_row(row.name, row.read_as, row.place, escape(row.about))
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
    from sparsernn.data.corpora import CORPORA

    corpus = CORPORA["folder"](data_dir=folder)
    for split, ids in corpus.splits.items():
        file = corpus.info["files"][split]
        print(f"{split:<6} {file:<18} {len(ids):>12,} tokens   sha256 {corpus.info['sha256'][split][:16]}")
    print(f"vocabulary {len(corpus.vocabulary):,} words that stand at least twice in train")
    print(f"known as   {known_as(corpus.info) or 'nothing known: a corpus of your own'}")


@commands.command("numbered")
def list_numbered() -> None:
    """List the long texts that have been numbered into the cache, and what they take."""
    from sparsernn.cli.console_tables import table
    from sparsernn.data.numbered_cache import kept, numbered_folder
    from sparsernn.report.console import output

    rows = kept()
    if not rows:
        print(f"{numbered_folder()} holds nothing")
        return
    made = table("text", "tokens", "types", "MB", "file")
    for row in rows:
        source = row.source or "not whole: it will be numbered again"
        size = f"{row.bytes / 1e6:,.1f}"
        made.add_row(escape(source), f"{row.tokens:,}", f"{row.vocabulary:,}", size, row.path.parent.name)
    output().print(made)


@commands.command()
def clear() -> None:
    """Remove all numbered texts from the cache; they are numbered again when they are asked for."""
    from sparsernn.data.numbered_cache import clear as removed
    from sparsernn.data.numbered_cache import numbered_folder

    print(f"{numbered_folder()} is empty; {removed() / 1e6:,.1f} MB were removed")


def known_as(info: dict[str, Json]) -> str:
    """The downloadable corpus whose training file has this hash; '' for a corpus of one's own."""
    from sparsernn.data.download import DATASETS, standard_digest

    digest = f"sha256:{info['sha256']['train']}"
    return next((name for name in DATASETS if standard_digest(name, "train") == digest), "")
