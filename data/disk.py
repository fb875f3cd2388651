"""Errors of a full disk: with the folder, the free space and what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def room_told(folder: Path) -> Iterator[None]:
    """Turn a full-disk error in the block, which writes into `folder`, into an OSError with the free space and a fix."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"{folder}: {error.strerror} ({free_gb(folder):.1f} GB free); make room there, or choose a place on another disk"
        ) from error


def free_gb(folder: Path) -> float:
    """Free space in GB (10^9 bytes) on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free / 1e9
