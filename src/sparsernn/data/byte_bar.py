"""A bar that shows how many bytes of something have been dealt with."""

import sys
from typing import Self


class ByteBar:
    """A progress bar of rich in the shape that pooch expects; silent where nobody watches."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())

        self._bar = Progress(
            *columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
        )
        self._task = self._bar.add_task(label, total=None)
        self.total: int = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, size: int) -> None:
        """`size` more bytes have come."""
        self._bar.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Pooch calls this once more at the end, and then counts the whole file again."""
        self._bar.reset(self._task, total=self.total or None)

    def close(self) -> None:
        """All bytes have come."""
