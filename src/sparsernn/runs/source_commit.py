"""Which state of the code a run was made with."""

import subprocess
from functools import cache
from pathlib import Path

import sparsernn

ABBREVIATED = 12
"""Digits of a commit: enough to find it in any repository of this size."""


@cache
def source_commit(package: Path | None = None) -> str | None:
    """The commit of the checkout that the package is imported from, with "-dirty" where files were changed since.

    Args:
        package: the package's folder; that of sparsernn if not given.

    Returns:
        None where the package was installed: it is in no repository, or in one that does not hold its files.
    """
    folder = package or Path(sparsernn.__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", f"--abbrev={ABBREVIATED}", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    """What git answers; None where there is no git, no repository, or no such file in it."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
