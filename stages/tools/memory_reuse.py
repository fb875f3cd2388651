"""Freed memory is kept for the next tensor, for commands whose largest tensors come and go with every layer."""

import ctypes
import sys

# of <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1  # of an int, which is what mallopt takes


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system; True if this C library can.

    By default it maps every block above 32 MB anew and unmaps it at once, and the system clears each of its pages first: 2.4 of
    the 11.5 s of processor that `sample.py apple --label all --num 3 --batch 15 --precision bf16` computes (two runs each, one
    thread of an AMD EPYC). The process keeps as much as it once needed, so a server, whose memory others share, does not
    call this. No number changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
