"""Files: written whole or not at all, hashed, and locked for one process at a time."""

import fcntl
import hashlib
import json
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import disk_told


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    if not path.stat().st_size:
        return hashlib.sha256().hexdigest()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()  # a sixth faster than reading in pieces


def sync(path: Path) -> None:
    """fsync a file or folder, so that a rename after it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write beside and rename: a reader sees the old text or the new, never half; several processes may write at once."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write bytes as `replace_text` writes text."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create a folder, and those above it. Raises ValueError, which names it and the reason, where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path}: this folder cannot be made ({error.filename}: {error.strerror}); choose another place"
        ) from None


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block; the file is removed afterwards.

    The kernel releases the lock when its holder dies, however it dies. Raises ValueError, beginning with `what`, if
    another process holds it or the file is not a lock of ours.
    """
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
        file.close()  # its holder has just removed it and ended
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
