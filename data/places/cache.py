"""A bounded folder of fetched shards, shared by processes and runs.

A shard is kept under its sha256, never under its name, so two data sets cannot mix. It is written as `SHA.part`,
checked, and renamed; a lock on the .part lets one process fetch while the others wait. The least recently opened shards
are removed first. A .part counts with its final size from the start, so the bound holds while several processes fetch.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.index import ShardInfo

GB = 10**9
POLL_S = 0.05
WHERE = "name another folder with CASCADE_CACHE"


def default_folder() -> Path:
    """CASCADE_CACHE, else `cascade/shards` in the user's cache folder."""
    if path := os.environ.get("CASCADE_CACHE"):
        return Path(path)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise ValueError("no home folder to keep fetched shards in; name a folder with CASCADE_CACHE") from error
    return Path(base) / "cascade" / "shards"


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """At most max_bytes of shards in `folder`. wait_s: longest wait for another process that makes no progress."""

    folder: Path
    max_bytes: int
    wait_s: float = 120.0

    def prepare(self) -> None:
        """Create the folder; OSError in one line if it cannot be written to."""
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / ".lock"):
                pass

    def open(self, shard: ShardInfo, fetch: Callable[[], Iterable[bytes]]) -> BinaryIO:
        """Open the shard from the cache, which `fetch` fills if needed; ChangedError if that yields other bytes."""
        path = self.folder / shard.sha256
        while True:
            with suppress(FileNotFoundError):  # not fetched yet, or another process has evicted it since
                file = path.open("rb")
                if os.fstat(file.fileno()).st_size == shard.bytes:
                    os.utime(path)
                    return file
                file.close()
                path.unlink(missing_ok=True)
            self.add(shard, fetch)

    def holds(self, shard: ShardInfo) -> bool:
        """Whether the shard has been fetched."""
        return (self.folder / shard.sha256).is_file()

    def drop(self, shard: ShardInfo) -> None:
        """Remove the copy of a shard that has gone bad on the disk."""
        (self.folder / shard.sha256).unlink(missing_ok=True)

    def add(self, shard: ShardInfo, fetch: Callable[[], Iterable[bytes]]) -> None:
        """Fetch a shard that is not there, or wait until another process has."""
        path, part = self.folder / shard.sha256, self.folder / f"{shard.sha256}.part"
        with self._told():
            file = self._own(part, path)
        if file is None:
            return
        with file:
            try:
                with self._told():
                    self._reserve(file, shard)
                self._fill(file, shard, fetch)
                with self._told():
                    os.replace(part, path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _own(self, part: Path, path: Path) -> BinaryIO | None:
        """The .part, locked by this process; None once the shard is there."""
        deadline, last_blocks = time.monotonic() + self.wait_s, -1
        while not path.is_file():
            file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            if _try_lock(file):
                if part.exists() and os.fstat(file.fileno()).st_ino == part.stat().st_ino and not path.is_file():
                    return file
            else:
                if (blocks := os.fstat(file.fileno()).st_blocks) != last_blocks:
                    deadline, last_blocks = time.monotonic() + self.wait_s, blocks
                if time.monotonic() > deadline:
                    file.close()
                    raise TimeoutError(f"another process has been at {part} for {self.wait_s:.0f} s; end that process")
                time.sleep(POLL_S)
            file.close()
        return None

    def _reserve(self, file: BinaryIO, shard: ShardInfo) -> None:
        """Make room and claim it: from here on the .part counts with its final size."""
        with _locked(self.folder / ".lock"):
            os.ftruncate(file.fileno(), 0)
            entries = sorted(self._entries(), key=lambda entry: entry[0])
            excess = sum(size for _, size, _ in entries) + shard.bytes - self.max_bytes
            for _, size, path in entries:
                if excess > 0 and (path.suffix != ".part" or _abandoned(path)):
                    path.unlink(missing_ok=True)
                    excess -= size
            if excess > 0:
                raise ValueError(
                    f"cache {self.folder} is full of shards that are being fetched: {shard.bytes / GB:.3g} GB more are "
                    f"needed, {self.max_bytes / GB:.3g} GB are allowed; allow more with a larger cache"
                )
            os.ftruncate(file.fileno(), shard.bytes)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of each shard and .part in the folder."""
        for path in self.folder.iterdir():
            if len(path.stem) == 64 and path.suffix in ("", ".part"):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    yield stat.st_mtime, stat.st_size, path

    def _fill(self, file: BinaryIO, shard: ShardInfo, fetch: Callable[[], Iterable[bytes]]) -> None:
        digest, num = hashlib.sha256(), 0
        for chunk in fetch():
            digest.update(chunk)
            num += len(chunk)
            if num > shard.bytes:
                break
            with self._told():
                file.write(chunk)
        with self._told():
            file.flush()
        if num != shard.bytes:
            raise ChangedError(
                f"{'more than' if num > shard.bytes else num} {'of ' * (num < shard.bytes)}{shard.bytes} bytes"
            )
        if digest.hexdigest() != shard.sha256:
            raise ChangedError("another sha256")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an OSError of the block into one line that names the cache."""
        try:
            yield
        except TimeoutError:
            raise
        except OSError as error:
            raise OSError(f"cache {self.folder}: {error.strerror or error}; free some space, or {WHERE}") from error


class ChangedError(ValueError):
    """The bytes fetched are not those of the shard in the index."""


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _abandoned(part: Path) -> bool:
    """Whether the process that wrote a .part has ended: nobody holds its lock."""
    try:
        with part.open("rb") as file:
            return _try_lock(file)
    except FileNotFoundError:
        return False
