"""Pages of the site that are printed, not written, and where links lead; mkdocs calls the functions named `on_...`.

Everything else here needs no mkdocs: the tests read the same pages.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "sparsernn"
BESIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that the repository has at its root -> their places on the site."""
UNLISTED = ("cli",)
"""Packages without a page in the reference: the commands have a page of their own."""
TORCH = "What has no meaning here is torch's own: see `torch.optim`."
NOTES = {
    "optimizer": TORCH,
    "averaged": TORCH,
    "sparsity": "[The engine](engine.md) has each choice with its formula, and what `update` and `faithful` hold.",
}
"""What the page of settings says of a kind beside its tables."""
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def written() -> dict[str, Path]:
    """Place on the site -> file, for the pages that are written by hand."""
    pages = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
    return pages | {place: ROOT / name for name, place in BESIDE.items()}


def printed() -> dict[str, str]:
    """Place on the site -> Markdown, for the pages that are printed from the code."""
    tables = {"recipe-table.md": recipe_table(), "settings.md": settings(), "commands.md": commands()}
    return tables | reference()


PART = re.compile(r"(<!-- printed: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A table inside a written page, under the name of the function of `sparsernn.catalogue` that prints it."""


RESULTS = ROOT / "docs" / "results.jsonl"
"""What runs obtained, one a line: `make results` keeps them there."""


def reprinted(text: str) -> str:
    """A page with its printed parts as the code prints them and the results that are kept.

    `python docs/site_pages.py` writes them into docs/.
    """
    from sparsernn import catalogue
    from sparsernn.report.story.obtained import read_book
    from sparsernn.report.story.result_tables import renewed

    text = PART.sub(lambda found: f"{found[1]}\n{getattr(catalogue, found[2])()}\n\n{found[3]}", text)
    return renewed(text, read_book(RESULTS))


def is_printed(text: str) -> bool:
    """Whether a page has a printed part."""
    from sparsernn.report.story.result_tables import PLACE

    return bool(PART.search(text) or PLACE.search(text))


def links(text: str) -> Iterator[str]:
    """The targets of a page's links and pictures, without those in code."""
    for part in CODE.split(text)[::2]:
        yield from (found[2] for found in LINK.finditer(part))


def relinked(text: str, place: str) -> str:
    """A page with its links as the site has them: a file that is no page leads into the repository.

    Args:
        text: Markdown.
        place: the file's folder in the repository, "" or "docs".

    >>> relinked("[a](docs/iss.md#b), [c](Makefile), `[d](e)`", "")
    '[a](iss.md#b), c (`Makefile`), `[d](e)`'
    """
    parts = CODE.split(text)
    parts[::2] = [LINK.sub(lambda found: _linked(found[1], found[2], place), p) for p in parts[::2]]
    return "".join(parts)


def _linked(label: str, link: str, place: str) -> str:
    """A link on the site; a file that the site does not have is named."""
    if re.match(r"[a-z]+:|#", link):
        return f"{label}({link})"
    path, mark, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(place, path))
    inside = BESIDE.get(path, path.removeprefix("docs/"))
    return f"{label}({inside}{mark}{anchor})" if inside != path else f"{label[1:-1]} (`{path}`)"


# --- tables


def recipe_table() -> str:
    """Every recipe that comes with the package, by family."""
    from sparsernn.cli.console_tables import RECIPE_COLUMNS, recipe_row
    from sparsernn.runs.recipe import list_recipes, load_recipe

    said = "What `sparsernn recipes` prints; `sparsernn recipes show NAME` has one in full, [Recipes](recipes.md) how"
    lines = ["# Every recipe", "", f"{said} they are written. Figures are of the test split."]
    family = ""
    for recipe in map(load_recipe, list_recipes()):
        if family != (family := recipe.name.split("/")[0]):
            lines += ["", f"## {family}", "", _row(RECIPE_COLUMNS), _row(["---"] * len(RECIPE_COLUMNS))]
        name, *cells = recipe_row(recipe)
        lines.append(_row([f"`{name}`", *map(_escaped, cells)]))
    return "\n".join(lines) + "\n"


def settings() -> str:
    """The settings of every component that a recipe can name."""
    from sparsernn import catalogue

    lines = [
        "# Every setting",
        "",
        "What `sparsernn recipes settings KIND NAME` prints: a recipe's components by kind, from the signatures and",
        "docstrings of the code. [Recipes](recipes.md) says how components are put together.",
    ]
    for kind in catalogue.KINDS:
        lines += ["", f"## {kind}", *(["", NOTES[kind]] if kind in NOTES else [])]
        for name in catalogue.members(kind):
            lines += ["", f"### {kind} `{name}`", "", catalogue.markdown(kind, name)]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command of the command line, with its arguments and options, from the functions behind them."""
    from sparsernn.cli.app import app

    lines = [
        "# Commands",
        "",
        "What `sparsernn COMMAND --help` prints, in short.",
        *_commands("sparsernn", app),
    ]
    return "\n".join(lines) + "\n"


def _commands(name: str, app: Any) -> Iterator[str]:
    for command in app.registered_commands:
        word = command.name or command.callback.__name__.replace("_", "-")
        rows = list(_parameters(command.callback))
        yield from (
            "",
            f"## {name} {word}",
            "",
            inspect.cleandoc(command.help or command.callback.__doc__ or ""),
        )
        if rows:
            yield from ("", _row(("argument or option", "default", "meaning")), _row(("---", "---", "---")))
            yield from map(_row, rows)
    for group in app.registered_groups:
        yield from ("", f"## {name} {group.name}", "", group.help)
        yield from _commands(f"{name} {group.name}", group.typer_instance)


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        said = next(iter(getattr(hints[name], "__metadata__", ())), None)
        if said is None or said.hidden:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = "" if required or parameter.default in (None, False, "") else f"`{parameter.default}`"
        argument = type(said).__name__ == "ArgumentInfo"
        words = [said.metavar or name.upper()] if argument else [*(said.param_decls or (_option(name),))]
        if argument and not required and not words[0].startswith("["):
            words = [f"[{words[0]}]"]
        value = "" if argument or "bool" in str(hints[name]) else f" {said.metavar or 'VALUE'}"
        yield f"`{', '.join(words)}{value}`", "(required)" if required else default, _escaped(said.help or "")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- reference


def reference() -> dict[str, str]:
    """A page for each package, made of its modules' docstrings, and one of the names that `import sparsernn` has."""
    pages = {f"reference/{name}.md": _package_page(name) for name in packages()}
    return {"reference/index.md": _door(), **pages}


def packages() -> list[str]:
    """The packages that have a page, such as "nn" and "nn.cells"."""
    folders = sorted(path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py"))
    names = [".".join(folder.parts) for folder in folders if folder.parts]
    return [name for name in names if name.split(".")[0] not in UNLISTED]


def _package_page(name: str) -> str:
    folder = PACKAGE.joinpath(*name.split("."))
    package = f"sparsernn.{name}"
    lines = [f"# sparsernn.{name}", "", _docstring(folder / "__init__.py")]
    names = [f"[`{each}`][{home(package, each)}]" for each in exports(package)]
    if names:
        lines += ["", f"`from {package} import ...`: {', '.join(names)}."]
    inside = [each for each in packages() if each.rpartition(".")[0] == name]
    lines += ["", *(f"- [{package}.{each.split('.')[-1]}]({each}.md)" for each in inside)]
    here = [each for each in exports(package) if home(package, each) == f"{package}.{each}"]
    if here:
        lines += _shown(package, "show_root_heading: false", f"members: [{', '.join(here)}]")
    for path in sorted(folder.glob("[!_]*.py")):
        lines += _shown(f"{package}.{path.stem}")
    return "\n".join(lines) + "\n"


def _shown(name: str, *options: str) -> list[str]:
    chosen = ["    options:", *(f"      {option}" for option in options)] if options else []
    return ["", f"::: {name}", *chosen]


def _door() -> str:
    lines = [
        "# import sparsernn as sr",
        "",
        _docstring(PACKAGE / "__init__.py"),
        "",
        _row(("name", "what it is")),
    ]
    lines.append(_row(("---", "---")))
    import sparsernn

    for name in sparsernn.__all__:
        if name in packages():
            lines.append(_row((f"[`sr.{name}`]({name}.md)", _first_line(getattr(sparsernn, name)))))
        elif not name.startswith("_"):
            made = getattr(sparsernn, name)
            lines.append(_row((f"[`sr.{name}`][{made.__module__}.{made.__qualname__}]", _first_line(made))))
    return "\n".join(lines) + "\n"


def _first_line(made: Any) -> str:
    return _escaped((made.__doc__ or "").strip().split("\n\n")[0])


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def exports(package: str) -> list[str]:
    """The names in a package's `__all__`; none where it has none."""
    for node in _tree(package).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def home(package: str, name: str) -> str:
    """Where a name that a package offers is defined, followed through other packages.

    >>> home("sparsernn.nn", "LSTM"), home("sparsernn.nn", "LAYERS")
    ('sparsernn.nn.cells.lstm.LSTM', 'sparsernn.nn.LAYERS')
    """
    for node in _tree(package).body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if (alias.asname or alias.name) == name:
                return home(str(node.module), alias.name)  # type: ignore[union-attr]
    return f"{package}.{name}"


def _tree(module: str) -> ast.Module:
    place = ROOT.joinpath("src", *module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


# --- what mkdocs calls


def on_config(config: MkDocsConfig) -> None:
    """Put the reference's pages into the navigation."""
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"] = ["reference/index.md", *({p: f"reference/{p}.md"} for p in packages())]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that docs/ does not hold."""
    from mkdocs.structure.files import File

    made: dict[str, str | Callable[[], str]] = dict(printed())
    made |= {place: (ROOT / name).read_text(encoding="utf-8") for name, place in BESIDE.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to where the site has their targets."""
    place = page.file.src_uri
    if place not in written():
        return markdown
    return relinked(markdown, "" if place in BESIDE.values() else "docs")


if __name__ == "__main__":
    for file in written().values():
        file.write_text(reprinted(file.read_text(encoding="utf-8")), encoding="utf-8")
