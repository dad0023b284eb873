"""Pieces numbered by several processes at once, in order."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

import sparsernn
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.numbering.frames import receive_numbered, send
from sparsernn.numbering.piece_numbers import Numbered, numbered

MOST = 16
"""Processes at most: the one that asks them has about a tenth of their work to do itself."""

AHEAD = 1
"""Pieces that wait for each process, so that none is idle; every one is held in memory."""

_START = "import sys; sys.path.insert(0, sys.argv.pop()); from sparsernn.numbering.piece_worker import main; main()"

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Ask = Callable[[bytes], Numbered]


def cores() -> int:
    """Processors that this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def numbered_in_order(
    found: Iterable[bytes], style: dict[str, Json], processes: int | None = None
) -> Iterator[Numbered]:
    """Every piece as numbers, in the order of the pieces.

    Args:
        found: of `pieces_of`; only a few of them are held at a time.
        style: what `numbered` has to know of it.
        processes: how many work on it; 0: this one alone; None: one for each core.

    Raises:
        InputError: a process was ended from outside, by a lack of memory for example.

    Example:
        >>> [piece.ids.tolist() for piece in numbered_in_order([b"a b ", b"a\\n"], {"style": "whitespace"}, 0)]
        [[0, 1], [0, 1]]
    """
    count = min(cores(), MOST) if processes is None else processes
    if not count or not sys.executable:  # a Python inside another program cannot start itself again
        yield from (numbered(piece, **style) for piece in found)
        return
    with ExitStack() as stack:
        idle: SimpleQueue[Ask] = SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(_worker(style)))
        threads = ThreadPoolExecutor(count)
        stack.callback(threads.shutdown, cancel_futures=True)
        waiting: deque[Future[Numbered]] = deque()
        for piece in found:
            waiting.append(threads.submit(_asked, idle, piece))
            if len(waiting) >= count * (1 + AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _asked(idle: "SimpleQueue[Ask]", piece: bytes) -> Numbered:
    ask = idle.get()
    try:
        return ask(piece)
    finally:
        idle.put(ask)


@contextmanager
def _worker(style: dict[str, Json]) -> Iterator[Ask]:
    """A process that numbers; it ends with the block, or with this process."""
    root = str(Path(sparsernn.__file__).parents[1])
    command = [sys.executable, "-P", "-c", _START, root]
    alone = {**os.environ, **dict.fromkeys(_POOLS, "1"), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=alone)
    given, back = process.stdin, process.stdout
    assert given is not None
    assert back is not None

    def ask(piece: bytes) -> Numbered:
        try:
            send(given, piece)
            answer = receive_numbered(back)
        except (BrokenPipeError, ValueError):  # ValueError: the pipes have been closed
            answer = None
        if answer is None:
            raise InputError(
                f"a process that numbers the text has ended (exit code {process.wait()}); too little memory?"
            )
        return answer

    with suppress(BrokenPipeError):  # the first piece finds out why
        send(given, json.dumps(style).encode())
    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        for pipe in (given, back):
            with suppress(BrokenPipeError):  # something was still to be sent
                pipe.close()
