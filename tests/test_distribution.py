"""What is published: a wheel for every Python and a source archive, built from what the repository tracks."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("build", "setuptools", "twine", "wheel")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(importlib.util.find_spec, TOOLS)), reason="needs the extra 'release'"),
]


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source archive, made from a copy of the tracked files."""
    copy = tmp_path_factory.mktemp("source")
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    run("-m", "build", "--no-isolation", cwd=copy)
    (wheel,) = (copy / "dist").glob("*.whl")
    (archive,) = (copy / "dist").glob("*.tar.gz")
    return wheel, archive


def test_the_index_would_take_them(built):
    assert "PASSED" in run("-m", "twine", "check", "--strict", *built)


def test_one_wheel_serves_every_python(built):
    wheel, _ = built
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "__init__.pyi", "recipes/demo/selfish.yaml", "report/page.html.jinja"):
        assert f"sparsernn/{needed}" in names
    assert not any(name.startswith("tests/") for name in names)


def test_links_of_the_description_work_elsewhere(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
        description = wheel.read(name).decode()
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert not [target for target in targets if not target.startswith(("https://", "#"))]
    assert "docs/selfish.md" in description, "said as text, for readers of the source archive"


def test_the_wheel_works_from_where_it_is_unpacked(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    seen = run(
        "-c", "import sparsernn; print(sparsernn.__file__, len(sparsernn.list_recipes()))", cwd=tmp_path
    )
    assert str(tmp_path) in seen


def test_the_source_archive_runs_the_commands_of_the_readme(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in archive.getnames()}
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines())
    assert tracked - names <= {".ci/run", ".gitignore", ".pre-commit-config.yaml"}
