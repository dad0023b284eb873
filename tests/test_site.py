"""The site: every page is found in it, every link leads somewhere, and what is printed is what the code says."""

import doctest
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "site_pages.py")))
GUIDES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [*GUIDES, *(ROOT / name for name in PAGES.BESIDE)]


def leaves(nav):
    """The pages of a navigation."""
    for entry in nav:
        inside = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from leaves(inside) if isinstance(inside, list) else [inside]


@pytest.fixture(scope="module")
def printed():
    """The pages that are printed from the code."""
    return PAGES.printed()


@pytest.fixture(scope="module")
def listed():
    """The pages of the navigation, the reference included."""
    config = SimpleNamespace(**yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    PAGES.on_config(config)
    return list(leaves(config.nav))


def test_every_page_is_in_the_navigation_once(listed, printed):
    assert sorted(listed) == sorted([*PAGES.written(), *printed])


def test_every_package_has_a_page_that_has_all_its_modules(printed):
    package = ROOT / "src" / "sparsernn"
    for path in package.rglob("*.py"):
        room = ".".join(path.relative_to(package).parts[:-1])
        if room in ("", "cli") or path.name.startswith("_"):
            continue
        assert f"::: sparsernn.{room}.{path.stem}\n" in printed[f"reference/{room}.md"], path
    rooms = (
        "core structure nn sparsity gradients models tasks data optim deploy runs experiments report kernels"
    )
    assert {f"reference/{room}.md" for room in rooms.split()} <= printed.keys()


def test_every_recipe_component_and_command_is_in_its_table(printed):
    from sparsernn import catalogue
    from sparsernn.runs.recipe import list_recipes

    for name in list_recipes():
        assert f"| `{name}` |" in printed["recipe-table.md"]
    for kind in catalogue.KINDS:
        for name in catalogue.members(kind):
            assert f"### {kind} `{name}`\n\n{catalogue.markdown(kind, name)}" in printed["settings.md"]
    for command in ("train", "resume", "recipes settings", "data list", "report"):
        assert f"\n## sparsernn {command}\n" in printed["commands.md"]
    assert "| `--dry-run` |  | Print the plan and stop. |" in printed["commands.md"]


@pytest.mark.parametrize("path", [path for path in WRITTEN if PAGES.is_printed(path.read_text("utf-8"))])
def test_a_table_inside_a_page_is_what_the_code_prints(path):
    text = path.read_text(encoding="utf-8")
    assert PAGES.reprinted(text) == text, "run: python docs/site_pages.py"


def test_the_corpora_are_printed_into_their_page():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert "<!-- printed: corpora -->" in text
    assert PAGES.reprinted(text.replace("| `ptb` | text |", "| `ptb` | tags |")) == text


def anchors(text):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#{1,6} +(.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_examples_of_the_printing_code_are_true():
    found = [
        t
        for made in (PAGES.relinked, PAGES.home)
        for t in doctest.DocTestFinder().find(made, globs=vars(PAGES))
    ]
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert runner.tries > 1
    assert runner.failures == 0


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_between_files_lead_to_a_file_and_a_heading(path):
    text = path.read_text(encoding="utf-8")
    for link in PAGES.links(text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.parents
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), (
            f"{link} has no such heading"
        )


def test_a_link_to_a_source_file_becomes_its_name():
    made = PAGES.relinked("[a](../src/x.py#L3) ![b](figures/b.svg) [c](../CONTRIBUTING.md) [d](#d)", "docs")
    assert made == "a (`src/x.py`) ![b](figures/b.svg) [c](contributing.md) [d](#d)"


# --- the site itself


class Refs(HTMLParser):
    """What a page names and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        elif given.get("src") or (tag == "link" and given.get("href")):
            self.loaded.add(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built, and what mkdocs said."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    made = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return folder, made


@pytest.mark.slow
def test_it_is_built_strictly(site):
    _, made = site
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr + made.stdout


@pytest.mark.slow
def test_no_link_of_it_is_dead_and_nothing_comes_from_elsewhere(site):
    folder, _ = site
    pages = {path: Refs(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    assert len(pages) > 40
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":  # is served at any address, and refers to its own by absolute ones
            continue
        assert not [link for link in page.loaded if "//" in link], path
        for link in page.links | page.loaded:
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].names):
                dead.append(f"{path.name}: {link}")
    assert not dead
