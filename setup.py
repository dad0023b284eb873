"""What pyproject.toml cannot say: the optional native kernels, and a readme without links to the files beside it."""

import re
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "src" / "sparsernn" / "kernels"
BUILDER = runpy.run_path(str(KERNELS / "build.py"))


class BuildKernels(build_ext):
    """Compiles plain shared libraries (not Python extension modules); no compiler is not an error."""

    def run(self) -> None:
        """Puts the libraries into the package: in the source tree for an editable install, else in the build."""
        inside = Path(self.build_lib) / "sparsernn" / "kernels"
        self.made = BUILDER["build"](KERNELS if self.inplace else inside, KERNELS)

    def get_outputs(self) -> list[str]:
        """Files that belong to the build (the wheel takes them along)."""
        return [] if self.inplace else [str(path) for path in getattr(self, "made", [])]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing to redirect: an editable install loads the libraries from the source tree itself."""
        return {}

    def get_source_files(self) -> list[str]:
        """Files that the source archive needs."""
        return [f"src/sparsernn/kernels/{path.name}" for path in sorted(KERNELS.glob("*.[ch]"))]


class PlatformWheel(bdist_wheel):
    """A wheel for one kind of machine and every Python: no kernel is compiled against Python's headers."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-PLATFORM."""
        return "py3", "none", super().get_tag()[2]


def readme() -> str:
    """README.md for a package's page, where the files beside it are not.

    Pictures are left out; a link to a file becomes its text and the file's path, which the source archive has.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?:|#)([^)#]*)[^)]*\)", _named, text)


def _named(link: re.Match[str]) -> str:
    shown, path = link[1], link[2]
    return path if shown == path else f"{shown} ({path})"


# The empty extension makes setuptools call build_ext and mark the wheel as belonging to this kind of machine.
setup(
    ext_modules=[Extension("sparsernn.kernels._sparse", sources=[])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
    long_description=readme(),
    long_description_content_type="text/markdown",
)
