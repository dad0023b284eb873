"""Code of the documentation's pages runs as it stands."""

import re
from pathlib import Path

import pytest

from sparsernn.data import CORPORA
from sparsernn.nn import LAYERS
from sparsernn.optim import OPTIMIZERS
from sparsernn.sparsity.dynamic.growth import GROW
from sparsernn.tasks import TASKS

DOCS = Path(__file__).parents[1] / "docs"


def code_of(page):
    """All Python of a page, each line where it stands in the file, so that a traceback names it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        first = text[: found.start(1)].count("\n")
        for number, line in enumerate(found[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


@pytest.fixture
def registries():
    """What a page adds is taken back."""
    kept = [(registry, dict(registry)) for registry in (CORPORA, GROW, LAYERS, OPTIMIZERS, TASKS)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


def test_parts_that_the_page_adds_train(tmp_path, registries):
    names = {"folder": tmp_path, "__name__": "page"}
    exec(compile(code_of("adding.md"), str(DOCS / "adding.md"), "exec"), names)
    assert names["squares_run"].is_complete
    assert names["squares_run"].history["epoch"] == [1, 2]
    assert 0 <= names["parity_run"].scores["accuracy"] <= 1
    density = names["squares_run"].sparsifier.masks()
    assert 0.4 < sum(int(m.sum()) for m in density.values()) / sum(m.numel() for m in density.values()) < 0.6
