"""A disk that takes no more, told in a line."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """What cannot be written within names `path`, why, how much is free, and what to do. Raises ValueError for OSError."""
    try:
        yield
    except OSError as error:
        free = "?"
        with suppress(OSError):
            free = f"{shutil.disk_usage(path.parent).free / 1e6:,.1f}"
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}; {free} MB are free there); what is finished stays: "
            "make room, and the same command goes on from there"
        ) from None
