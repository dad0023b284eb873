"""`sparsernn results`: what finished runs obtained, as tables, pages and the figures of recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsernn.report.story.history import RunRecord
    from sparsernn.report.story.obtained import Obtained
    from sparsernn.report.story.tables import Table


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(results)


def results(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Runs, or folders of runs.")],
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the figures there, one run a line, beside those of earlier runs, and show all of them.",
        ),
    ] = None,
    page: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A page to renew between its marks <!-- results: PATTERN ... -->."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Recipes to print and draw; all if not given.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw test figure against bytes of a packed file, as SVG."),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the validation figure epoch by epoch, as SVG.")
    ] = None,
    recipes: Annotated[
        bool,
        typer.Option("--recipes", help="Write mean and spread into the recipes that were run unchanged."),
    ] = False,
) -> None:
    """Print mean and spread over seeds of all finished runs in some folders, by recipe, corpus and machine."""
    from sparsernn.report.story.obtained import find_runs, merged, obtained, read_book, write_book
    from sparsernn.report.story.recipe_figures import write_figures
    from sparsernn.report.story.result_tables import fitting, renewed

    for option, path in {"--keep": keep, "--figure": figure, "--curves": curves}.items():
        _check_place(option, path)
    pages = {path: _page(path) for path in page or ()}
    runs = find_runs(folders)
    found = [result for result in map(obtained, runs) if result is not None]
    told = merged(read_book(keep) if keep else (), found)
    shown = fitting(told, only or ("*",))
    drawings = {
        path: _drawn(shown, path, kind) for kind, path in (("size", figure), ("epochs", curves)) if path
    }
    if keep:
        write_book(keep, told)
    for path, text in pages.items():
        path.write_text(renewed(text, told), encoding="utf-8")
    for path, drawing in drawings.items():
        path.write_text(drawing, encoding="utf-8")
    written = write_figures(told) if recipes else ()
    _show(shown, runs, len(found), written)


def _check_place(option: str, path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InputError(f"{option} is '{path}'; it must be a file in a folder that exists.")


def _page(path: Path) -> str:
    """The text of a page that has a place for results."""
    from sparsernn.report.story.result_tables import PLACE

    if not path.is_file():
        raise InputError(f"there is no page '{path}'; write it first, with <!-- results: PATTERN --> in it.")
    text = path.read_text(encoding="utf-8")
    if not PLACE.search(text):
        raise InputError(
            f"'{path}' has no place for results; mark it by <!-- results: PATTERN --> and <!-- end -->."
        )
    return text


def _drawn(told: Sequence[Obtained], path: Path, kind: str) -> str:
    """A picture as the text of an SVG file."""
    from sparsernn.report.charts.result_chart import curve_chart, size_chart
    from sparsernn.report.charts.svg import standalone

    figure = size_chart(told) if kind == "size" else curve_chart(told)
    if figure is None:
        wanted = "two settings" if kind == "size" else "a setting with two epochs"
        raise InputError(f"'{path}' is not drawn: it takes {wanted} of one corpus, metric and machine.")
    return standalone(figure)


def _unmarked(table: Table) -> Table:
    """The same for a terminal: without the marks of markdown."""
    rows = tuple(tuple(cell.strip("`") for cell in row) for row in table.rows)
    return replace(table, title=table.title.strip("*").replace("`", ""), rows=rows)


def _show(told: Sequence[Obtained], runs: Sequence[RunRecord], finished: int, written: Sequence[str]) -> None:
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report.console import output
    from sparsernn.report.story.result_tables import result_tables

    for table in result_tables(told):
        output().print(drawn(_unmarked(table)))
    output().print(f"Finished runs read: {finished}; not finished and left out: {len(runs) - finished}.")
    for name in written:
        output().print(f"The figures of recipe {name} are written.")
