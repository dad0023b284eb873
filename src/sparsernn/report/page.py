"""Write a report: one HTML page that needs nothing but itself, and the same as markdown."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sparsernn.core.errors import InputError
from sparsernn.report.charts.svg import inline
from sparsernn.report.markdown import write_markdown
from sparsernn.report.story.content import comparison_document, run_document
from sparsernn.report.story.document import Document
from sparsernn.report.story.history import load_run


def write_report(folders: Sequence[Path | str], out: Path | str) -> tuple[Path, Path]:
    """Report on one run, or compare several.

    Args:
        folders: run folders. One gives everything about this run, several give a comparison in this order.
        out: a folder, which gets report.html, report.md and report_figures/; or a file name that ends in
            .html or .md, which sets the names of all three. Made where missing, overwritten where there.

    Returns:
        The paths of the HTML page and of the markdown.

    Raises:
        InputError: no folder was given, one of them is not a run folder, or `out` can't be written.
    """
    if not folders:
        raise InputError("There is no run to report on; give at least one run folder.")
    runs = [load_run(folder) for folder in folders]
    html, markdown = _targets(Path(out))
    document = run_document(runs[0]) if len(runs) == 1 else comparison_document(runs, html.parent)
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render(document), encoding="utf-8")
        write_markdown(document, markdown)
    except OSError as error:
        raise InputError(f"The report can't be written to '{out}': {error.strerror or error}.") from error
    return html, markdown


def render(document: Document) -> str:
    """`document` as one self-contained HTML page; all text is escaped."""
    here = files("sparsernn.report")
    style = "\n".join(here.joinpath(name).read_text(encoding="utf-8") for name in ("chart.css", "page.css"))
    source = here.joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(d=document, style=Markup(style), inline=inline)


def _targets(out: Path) -> tuple[Path, Path]:
    if out.suffix.lower() in (".html", ".md"):
        return out.with_suffix(".html"), out.with_suffix(".md")
    return out / "report.html", out / "report.md"
