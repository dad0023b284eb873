"""`sparsernn doctor`: what this machine has, for a person and for a bug report."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

EXTRAS = {
    "report": ("jinja2",),
    "analysis": ("scipy",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "sweep": ("optuna",),
    "subword": ("tokenizers",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""What a user may install besides, and the packages that it brings."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor() -> None:
    """Say what this installation has and lacks."""
    for name, value in findings():
        print(f"{name:<12}{value}")


def findings() -> Iterator[tuple[str, str]]:
    """Name and value of everything that is worth knowing."""
    from sparsernn import __version__

    yield "sparsernn", f"{__version__} in {Path(__file__).resolve().parents[1]}"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    yield from _torch()
    yield from _disk()
    yield from _corpora()
    yield from _extras()


def _torch() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except (ImportError, OSError) as fault:
        yield "torch", f"MISSING: {fault}; install the package again with its constraints"
        return
    from sparsernn.core.devices import chosen, described
    from sparsernn.kernels import describe

    yield "torch", torch.__version__
    yield "cores", f"{os.cpu_count()} ({torch.get_num_threads()} threads used; OMP_NUM_THREADS sets them)"
    yield "processor", torch.backends.cpu.get_cpu_capability()
    yield "device", described(chosen("auto"))
    yield "kernels", describe().removeprefix("kernels: ")


def _disk() -> Iterator[tuple[str, str]]:
    from sparsernn.data.download import cache_folder
    from sparsernn.report.story.formats import size

    for name, folder in (("cache", cache_folder()), ("runs", Path("runs").resolve())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        writable = "" if os.access(there, os.W_OK) else ", NOT WRITABLE"
        yield name, f"{folder} ({size(free)} free{writable})"


def _corpora() -> Iterator[tuple[str, str]]:
    from sparsernn.data.corpus_list import place

    for name in ("ptb", "wikitext-2"):
        where = place(name)
        yield name, where if where != "not here" else f"not here; sparsernn data get {name}, or --data DIR"


def _extras() -> Iterator[tuple[str, str]]:
    from sparsernn.core.packages import is_installed

    for extra, packages in EXTRAS.items():
        missing = ", ".join(package for package in packages if not is_installed(package))
        yield extra, f"not here: {missing}; pip install 'sparsernn[{extra}]'" if missing else "ready"
