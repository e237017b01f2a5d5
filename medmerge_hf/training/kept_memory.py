"""Memory of a training on a CPU: what a step frees stays with the process for the next one."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager


# Of glibc's malloc.h: blocks of at least so many bytes are mapped each on its own; a free end of the heap of more than
# so many bytes goes back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
ALL = 2**31 - 1
# What glibc's own adaptation reaches in a process that has freed large tensors.
USUAL = {M_TRIM_THRESHOLD: 64 * 2**20, M_MMAP_THRESHOLD: 32 * 2**20}


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Keep freed memory for the length of a block.

    By default glibc hands the activations of every step back to the system and has them mapped and zeroed anew in the
    next, which takes up to a third of a step (benchmarks/RESULTS.md). The price is a peak that is about a quarter
    higher, since blocks of different sizes share one heap.

    Yields:
        Whether it is so: not with another C library, nor where `MALLOC_...` variables or `GLIBC_TUNABLES` say how
        malloc behaves.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", "")
    if told or platform.libc_ver()[0] != "glibc":
        yield False
        return
    libc = ctypes.CDLL(None)
    for option in USUAL:
        libc.mallopt(option, ALL)
    try:
        yield True
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
