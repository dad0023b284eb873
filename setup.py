"""Adds the optional native kernels to the setuptools build; everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path(__file__).resolve().parent / "src" / "sparsernn" / "kernels"
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


# The empty extension makes setuptools call build_ext and mark the wheel as belonging to this kind of machine.
setup(ext_modules=[Extension("sparsernn.kernels._sparse", sources=[])], cmdclass={"build_ext": BuildKernels})
