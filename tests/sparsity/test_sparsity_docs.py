"""Every example of the two pages about the engine runs, top to bottom."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["engine.md", "your-own-loop.md"])
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
