"""Packages that only some of the work needs, and that need not be installed."""

import importlib.util
from pathlib import Path

from sparsernn.core.errors import InputError


def check_installed(what: str, *packages: str, install: str, instead: str = "") -> None:
    """Refuse what needs a package that is not here.

    Args:
        what: needs them.
        packages: by the names that are imported.
        install: what pip is told.
        instead: what can be done without them.

    Example:
        >>> check_installed("a sweep", "json", "optunna", install="'sparsernn[sweep]'")
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: a sweep needs optunna: pip install 'sparsernn[sweep]'.
    """
    if missing := [package for package in packages if not is_installed(package)]:
        others = f"; {instead}" if instead else ""
        raise InputError(f"{what} needs {' and '.join(missing)}: pip install {install}{others}.")


def is_installed(package: str) -> bool:
    """Whether a package is here, without importing it.

    >>> is_installed("json"), is_installed("jsonn")
    (True, False)
    """
    return importlib.util.find_spec(package) is not None


def folder_of(package: str) -> Path:
    """Where an installed package lies, without importing it.

    >>> folder_of("json").name
    'json'
    """
    found = importlib.util.find_spec(package)
    assert found is not None, f"whoever asks has seen that {package} is installed"
    return Path(str(found.origin)).parent
