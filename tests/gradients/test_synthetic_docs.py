"""The pages about quasi-recurrent layers and synthetic gradients: their examples run, their tables are complete."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sparsernn.gradients.synthetic_settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["qrnn.md", "synthetic-gradients.md"])
def test_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    names = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_every_setting_is_in_the_table():
    page = (DOCS / "synthetic-gradients.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert [f.name for f in fields(Settings) if f"`{f.name}`" not in rows] == []
