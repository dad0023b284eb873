"""Where runs are kept."""

from pathlib import Path

RUNS = Path("runs")


def fresh_folder(name: str) -> Path:
    """The folder for a new run of that name: runs/NAME, with a number added while that one is taken."""
    wanted = RUNS / name.replace("/", "-")
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
