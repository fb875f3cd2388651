"""A disk that is full: said with the place, what is free there and what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def room_told(folder: Path) -> Iterator[None]:
    """What a full disk raises in the block, which writes into `folder`, as an OSError that tells it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"{folder}: {error.strerror} ({free_gb(folder):.1f} GB free); make room there, or choose a place on another disk"
        ) from error


def free_gb(folder: Path) -> float:
    """Of the disk on which a folder lies, or will lie."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free / 1e9
