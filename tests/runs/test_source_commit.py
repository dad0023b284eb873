"""Which commit a run was made with."""

import subprocess

import pytest

from sparsernn.runs.assembly import assemble, environment
from sparsernn.runs.source_commit import source_commit

NOBODY = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]


def git(folder, *words):
    done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A package in a repository of one commit."""
    folder = tmp_path / "src" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    try:
        git(tmp_path, "init", "-q")
    except OSError:
        pytest.skip("git is not installed")
    git(tmp_path, "add", ".")
    git(tmp_path, *NOBODY, "commit", "-q", "-m", "one")
    return folder


def test_a_checkout_tells_its_commit_and_whether_files_were_changed(package):
    commit = git(package, "rev-parse", "HEAD")[:12]
    assert source_commit(package) == commit
    source_commit.cache_clear()
    (package / "__init__.py").write_text("changed = True\n")
    assert source_commit(package) == f"{commit}-dirty"


def test_a_package_that_a_repository_does_not_hold_has_none(package, tmp_path):
    installed = tmp_path / "site-packages" / "other"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert source_commit(installed) is None
    assert source_commit(tmp_path / "missing") is None


def test_a_run_keeps_it(tiny_recipe):
    assert environment(assemble(tiny_recipe()))["commit"] == source_commit()
