"""The oldest versions that are tested are the ones that are promised."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {"ruff", "mypy", "types-pyyaml"}
"""What no test runs on."""


def bounds():
    """Package -> lower bound, of the core and of the extras that the suite is installed with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = re.findall(
        r"^([\w-]+)>=([\d.]+)", "\n".join([*project["dependencies"], *extras["report"], *extras["dev"]]), re.M
    )
    return {name.lower(): version for name, version in found if name.lower() not in TOOLS}


def pins():
    """Package -> version that `make test-lowest` installs."""
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    return {name.lower(): version for name, version in re.findall(r"^([\w-]+)==([\d.]+)$", text, re.M)}


@pytest.mark.parametrize("name", sorted(bounds()))
def test_the_lower_bound_is_what_is_tested(name):
    numbers = [tuple(map(int, found[name].split("."))) for found in (bounds(), pins())]
    bound, pin = ((*version, 0, 0, 0)[:3] for version in numbers)
    assert bound == pin


def test_nothing_else_is_held_back():
    assert pins().keys() == bounds().keys()
