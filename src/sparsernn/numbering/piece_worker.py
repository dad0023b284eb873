"""A process that numbers pieces: it reads one from its input, writes it back as numbers, and ends with its input."""

import json
import signal
import sys

from sparsernn.numbering.frames import receive, send_numbered
from sparsernn.numbering.piece_numbers import numbered


def main() -> None:
    """Serve the process that has started this one; it says the style first."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the one who asks; when that ends, the input does
    style = json.loads(receive(sys.stdin.buffer) or b"{}")
    try:
        while (piece := receive(sys.stdin.buffer)) is not None:
            send_numbered(sys.stdout.buffer, numbered(piece, **style))
    except BrokenPipeError:  # nobody reads any more
        sys.stdout = None
