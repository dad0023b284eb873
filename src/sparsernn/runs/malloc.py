"""Keep large buffers instead of returning them to the system on every step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt(3)."""
LARGEST = 1 << 30
"""Buffers up to 1 GiB stay in the process; the logits of a window or a gradient take 30 to 100 MB."""


def keep_buffers() -> bool:
    """Tell glibc not to map and unmap large allocations afresh; True where that is possible.

    Each mapped page costs a page fault on first touch: a training step of the 2x1500 language model is several
    hundred milliseconds faster with warm buffers.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST) and libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1))
