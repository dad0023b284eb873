"""Which of several loops over a window is the fastest here: measured on the device, once for each kind of window.

Only where a graphics card runs the loops: there the ways differ in how often a kernel is launched and in how many of
the card's processors are busy, which no table of sizes tells for a card that has not been seen.
"""

import time
from collections.abc import Callable, Hashable, Mapping

import torch

from sparsernn.core.devices import CPU, wait_for
from sparsernn.core.peers import common_answer
from sparsernn.kernels.triton_language import power_above

ROUNDS = 3
"""Timings of each way; the fastest counts, because whatever else runs on the machine only adds."""

MARGIN = 0.9
"""Share of the first way's time below which another is taken: near a draw nothing is worth another order of sums."""

_chosen: dict[tuple[Hashable, ...], str] = {}


def least_seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Of a piece of work, run some times on a device."""
    taken = []
    for _ in range(ROUNDS + 1):  # the first warms up, and counts if it should be the fastest
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def fastest(
    kind: Hashable, steps: int, ways: Mapping[str, Callable[[], object]], device: torch.device
) -> str:
    """The name of the way that takes clearly least time, measured once in a process for windows of about one length.

    Where torch is to give the same bits every time (`deterministic: true`), it is the first one, unmeasured: a run
    that is resumed must not choose another. Where several processes train, those whose windows are as large take what
    one of them has found.

    Args:
        kind: what else decides: the loop, its shapes and types, whether gradients come back.
        steps: T; windows between two powers of two share a measurement.
        ways: name -> the work of a window. The first one is that which others have to beat.
        device: where they run.

    Example:
        >>> fastest("example", 5, {"slow": lambda: time.sleep(0.01), "fast": lambda: None}, CPU)
        'fast'
    """
    first = next(iter(ways))
    if torch.are_deterministic_algorithms_enabled():
        return first
    key = (kind, power_above(steps), device)
    if key not in _chosen:
        seconds = {name: least_seconds(work, device) for name, work in ways.items()}
        best = min(seconds, key=seconds.__getitem__)
        found = best if seconds[best] < MARGIN * seconds[first] else first
        _chosen[key] = common_answer(key[:2], found)
    return _chosen[key]
