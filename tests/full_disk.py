"""A disk that is full: no file of this process may grow beyond some bytes.

Python 3.11 keeps a half-written compiled module, which then breaks every later import of it: none are written while a disk is full.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process end at `size` bytes, as a full disk ends them, until the block ends."""
    before, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writes, told = sys.dont_write_bytecode, os.environ.get("PYTHONDONTWRITEBYTECODE")
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
        sys.dont_write_bytecode = writes
        os.environ.pop("PYTHONDONTWRITEBYTECODE") if told is None else os.environ.update(PYTHONDONTWRITEBYTECODE=told)
