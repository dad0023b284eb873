"""Where runs are kept."""

from pathlib import Path

RUNS = Path("runs")


def fresh_folder(name: str, out: Path | None = None) -> Path:
    """The folder for a new run: `out`, else runs/NAME, with a number added while that one is taken.

    >>> fresh_folder("selfish/lstm-ptb", Path("here")).as_posix()
    'here'
    """
    if out is not None:
        return out
    wanted = RUNS / name.replace("/", "-")
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
