"""metrics.jsonl: one JSON object per line, appended as things happen."""

import json
import os
import time
from pathlib import Path

from sparsernn.core.plain import Json


class EventLog:
    """An append-only log of plain records.

    Example:
        >>> import tempfile
        >>> log = EventLog(Path(tempfile.mkdtemp()) / "metrics.jsonl")
        >>> log.append({"event": "step", "loss": 1.5})
        >>> json.loads(log.path.read_text())["loss"]
        1.5
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Json]) -> None:
        """Write one record, stamped with the time; a line is written whole or, on a full disk, not at all."""
        line = json.dumps({**record, "time": round(time.time(), 3)}) + "\n"
        before = self.size()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            self.truncate(before)
            raise

    def size(self) -> int:
        """Bytes written so far: the place to come back to."""
        return self.path.stat().st_size if self.path.exists() else 0

    def knows(self, kind: str) -> bool:
        """Whether a record of that kind was written."""
        mark = f'"event": {json.dumps(kind)}'  # inside a string its quotes would have backslashes
        if not self.path.exists():
            return False
        with self.path.open(encoding="utf-8", errors="replace") as file:
            return any(mark in line for line in file)

    def truncate(self, size: int) -> None:
        """Forget what was written after `size` bytes: a resumed run writes it again."""
        if self.size() > size:
            os.truncate(self.path, size)
