"""Every example of the pages about the engine runs, top to bottom."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from sparsernn.sparsity.dynamic.engine_settings import GATE_SCOPES, GROUPS, INITS, REDISTRIBUTIONS, Updates
from sparsernn.sparsity.dynamic.growth import GROW
from sparsernn.sparsity.dynamic.pruning import PRUNE
from sparsernn.sparsity.presets import DEFAULTS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["engine.md", "your-own-loop.md", "dense-to-sparse.md"])
def test_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    names = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_every_setting_is_on_the_page():
    from sparsernn.sparsity.dynamic.engine_settings import accepted

    page = (DOCS / "engine.md").read_text(encoding="utf-8")
    missing = [name for name in accepted() if name not in page]
    assert not missing


def tables():
    """The tables of the page: {first two headings: rows of cells}."""
    page = (DOCS / "engine.md").read_text(encoding="utf-8")
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        heading, _, *rows = map(cells_of, block.splitlines())
        found.setdefault((heading[0].strip("`"), heading[1]), []).extend(rows)
    return found


def cells_of(line):
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split(" | ")]


def defaults():
    """Setting -> its default, of the engine."""
    return {f.name: f.default for group in (*GROUPS, Updates) for f in fields(group)}


@pytest.mark.parametrize(
    ("heading", "setting", "known"),
    [
        (("rule", "removes"), "prune", PRUNE),
        (("rule", "takes"), "grow", GROW),
        (("init", "active weights of an r x c tensor"), "init", INITS),
        (("redistribute", "s of a tensor"), "redistribute", REDISTRIBUTIONS),
        (("gate_scope", "pruning competes"), "gate_scope", GATE_SCOPES),
        (("name", "what differs from the defaults above"), None, DEFAULTS),
    ],
)
def test_tables_of_rules_have_those_of_the_code(heading, setting, known):
    """A rule that is registered is on the page, one that is not is not, and the default is the one that is marked."""
    cells = [row[0] for row in tables()[heading]]
    assert sorted(cell.split("`")[1] for cell in cells) == sorted(known)
    marked = [cell.split("`")[1] for cell in cells if "(default)" in cell]
    assert marked == ([defaults()[setting]] if setting else [])


def test_tables_of_settings_have_the_defaults_of_the_code():
    rows = [row for heading, found in tables().items() if heading == ("setting", "default") for row in found]
    shown = {}
    for names, default, *_ in rows:
        words = re.findall(r"`[\w.]+\.(\w+)`|`(\w+)`", names)
        shown |= zip(map("".join, words), re.split(r", (?![^(]*\))", default), strict=False)
    judged = {name: text for name, text in shown.items() if text not in ("all", "none", "(one is required)")}
    known = defaults()
    assert {name: value_of(text) for name, text in judged.items()} == {name: known[name] for name in judged}
    assert len(judged) > 10


def value_of(text):
    """A default as the page writes it: `word`, `False`, 0.5, a word with an explanation behind it."""
    word = re.sub(r"^`([^`]*)`.*", r"\1", text)
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
