"""What a process that numbers pieces and the one that asks it say to each other."""

import json
from typing import IO

import numpy as np

from sparsernn.numbering.piece_numbers import Numbered

LENGTH = 8


def send(stream: IO[bytes], data: bytes) -> None:
    """Write some bytes with their number before them."""
    stream.write(len(data).to_bytes(LENGTH, "little"))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read what `send` wrote; None where the other side has ended.

    >>> import io
    >>> stream = io.BytesIO()
    >>> send(stream, b"piece")
    >>> _ = stream.seek(0)
    >>> receive(stream), receive(stream)
    (b'piece', None)
    """
    head = stream.read(LENGTH)
    if len(head) < LENGTH:
        return None
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    return data if len(data) == size else None


def send_numbered(stream: IO[bytes], found: Numbered) -> None:
    """Write a numbered piece."""
    send(stream, json.dumps(found.tokens, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    send(stream, found.counts.astype(np.int64).tobytes())
    send(stream, found.ids.tobytes())


def receive_numbered(stream: IO[bytes]) -> Numbered | None:
    """Read what `send_numbered` wrote; None where the other side has ended."""
    parts = [receive(stream) for _ in range(3)]
    tokens, counts, ids = parts
    if tokens is None or counts is None or ids is None:
        return None
    return Numbered(json.loads(tokens), np.frombuffer(counts, np.int64), np.frombuffer(ids, np.uint32))
