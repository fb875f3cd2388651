"""One process at a time in a place. The kernel gives a lock back when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import disk_told


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """The lock that is the file `path`, which is gone afterwards. Raises ValueError, beginning with `what`, where another process
    has it."""
    while True:
        file = path.open("a+", errors="replace")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise ValueError(
                f"{what}: another process works there ({holder}); stop it, or choose another place"
            ) from None
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()  # its holder has just ended and removed it
    file.seek(0)
    if not '{"host": '.startswith(file.read(9)):
        file.close()
        raise ValueError(f"{what}: {path} is there and is no lock of ours; move it away, or choose another place")
    try:
        with disk_told(path):
            file.truncate(0)
            os.write(file.fileno(), json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode() + b"\n")
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
