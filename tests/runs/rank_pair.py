"""Two processes that train runs together, started as torchrun starts them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import sparsernn


class Pair:
    """Two processes that do jobs, as torchrun would start them."""

    def __init__(self, place, jobs):
        self.place = place
        (place / "jobs.json").write_text(json.dumps(jobs))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(Path(__file__).with_name("rank_worker.py")), str(place / "jobs.json")]
        known = {**os.environ, "PYTHONPATH": str(Path(sparsernn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen(
                command,
                env={**known, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        self.complaints = [process.communicate(timeout=240)[1] for process in ranks]
        self.codes = [process.returncode for process in ranks]

    def became(self, name, rank=0):
        """What a rank says of a job."""
        return json.loads((self.place / f"{name}-{rank}.json").read_text())
