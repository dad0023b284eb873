"""A finished run to report on."""

from pathlib import Path

import pytest
from report_runs import write_run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run of 30 epochs with every kind of event."""
    return write_run(tmp_path / "selfish-small")
