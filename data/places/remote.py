"""Remote shards: fetched whole into the cache, checked, then read like local ones.

`http(s)` uses the standard library; other addresses use fsspec, whose packages for a file system (s3fs, gcsfs, ...) the
user installs; `pipe:` runs a shell command, only if the user allows it. Nothing here expands an environment variable.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from data.index import INDEX_NAME, Index, ShardInfo, parse_index
from data.places.cache import ChangedError, ShardCache
from data.tar import MIB

MAX_INDEX_BYTES = 512 * MIB
MIN_RATE = 50_000  # bytes/s over a whole shard; a slower server counts as not answering
CHECKED = 256  # most shards whose size is checked when a data set is opened; the others are checked when fetched
FIRST_WAIT_S = 0.5  # before the second try; doubles before each further one


class Transport(Protocol):
    """A kind of remote place: how to read a file of a folder. A missing file is FileNotFoundError, other faults OSError."""

    @property
    def name(self) -> str:
        """The folder's address, for messages."""
        ...

    def chunks(self, file: str) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        ...

    def size(self, file: str) -> int | None:
        """Bytes of a file, or None if this kind of place does not tell."""


class _Ahead:
    """One background thread that fetches in order of submission; at most `waiting` jobs are queued."""

    def __init__(self, waiting: int = 64):
        self.jobs: queue.Queue[Callable[[], None]] = queue.Queue(waiting)
        threading.Thread(target=self._run, daemon=True, name="shards-ahead").start()

    def submit(self, job: Callable[[], None]) -> None:
        with suppress(queue.Full):  # then it is fetched when it is read
            self.jobs.put_nowait(job)

    def _run(self) -> None:
        while True:
            with suppress(OSError, ValueError):  # the reader will meet and report the same
                self.jobs.get()()


@dataclass
class RemoteStore:
    """A remote folder of shards: a `Store` that reads through the cache."""

    transport: Transport
    cache: ShardCache
    retries: int
    timeout_s: float
    _ahead: _Ahead | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The folder's address or command, for messages."""
        return self.transport.name

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_ahead": None}  # a copy for another process starts its own thread

    def index(self) -> Index:
        """Fetch and parse the index; ValueError if it is missing, broken or larger than MAX_INDEX_BYTES."""
        buffer = bytearray()

        def read() -> None:
            buffer.clear()
            for chunk in self._limited(INDEX_NAME, MAX_INDEX_BYTES):
                buffer.extend(chunk)
                if len(buffer) > MAX_INDEX_BYTES:
                    raise ValueError(f"{self.name}/{INDEX_NAME} is larger than {MAX_INDEX_BYTES // MIB} MiB")

        try:
            self._tried(read, INDEX_NAME)
        except FileNotFoundError as error:
            raise ValueError(
                f"data {self.name} has no {INDEX_NAME} ({error}); make it beside the shards with: python -m data.index FOLDER"
            ) from error
        return parse_index(
            bytes(buffer), f"{self.name}/{INDEX_NAME}", "make it again with: python -m data.index FOLDER --update"
        )

    def check(self, shards: list[ShardInfo]) -> None:
        """Raise ValueError if the largest shard exceeds the cache, or if one of up to CHECKED shards has another length."""
        self.cache.prepare()
        largest = max(shards, key=lambda shard: shard.bytes)
        if largest.bytes > self.cache.max_bytes:
            raise ValueError(
                f"shard {self.where(largest)} has {largest.bytes:,} bytes, the cache {self.cache.folder} may hold "
                f"{self.cache.max_bytes:,}; allow it more"
            )
        checked = shards[:: -(-len(shards) // CHECKED)]
        with ThreadPoolExecutor(16) as pool:
            for shard, size in zip(checked, pool.map(self._size, checked), strict=True):
                if size is not None and size != shard.bytes:
                    raise ValueError(
                        f"shard {self.where(shard)} has {size} bytes, {INDEX_NAME} says {shard.bytes}; {self.fix}"
                    )

    def _size(self, shard: ShardInfo) -> int | None:
        if self.cache.holds(shard):
            return None
        results: list[int | None] = []
        self._tried(lambda: results.append(self.transport.size(shard.name)), shard.name)
        return results[-1]

    def where(self, shard: ShardInfo) -> str:
        """Address of a shard, for messages."""
        return f"{self.name}/{shard.name}"

    def open(self, shard: ShardInfo) -> BinaryIO:
        """Open a shard, after fetching it if needed."""
        self.cache.prepare()
        files: list[BinaryIO] = []
        self._tried(lambda: files.append(self.cache.open(shard, lambda: self._of(shard))), shard.name)
        return files[-1]

    def expect(self, shards: Iterable[ShardInfo]) -> None:
        """Fetch these shards in the background."""
        for shard in shards:
            if not self.cache.holds(shard):
                self._ahead = self._ahead or _Ahead()
                self._ahead.submit(lambda shard=shard: self.cache.add(shard, lambda: self._of(shard)))  # type: ignore[misc]

    def distrust(self, shard: ShardInfo) -> str:
        """Drop the cached copy of a shard; returns what the user can do."""
        self.cache.drop(shard)
        return f"{self.fix}; the copy in {self.cache.folder} is dropped"

    @property
    def fix(self) -> str:
        """What the user can do about a shard that is not that of the index."""
        return "put the right shards there, or an index made anew with: python -m data.index FOLDER --update"

    def _of(self, shard: ShardInfo) -> Iterator[bytes]:
        return self._limited(shard.name, shard.bytes)

    def _limited(self, file: str, num_bytes: int) -> Iterator[bytes]:
        """Yield a file's bytes; TimeoutError if they arrive slower than MIN_RATE."""
        deadline = time.monotonic() + self.timeout_s + num_bytes / MIN_RATE
        for chunk in self.transport.chunks(file):
            yield chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"slower than {MIN_RATE / 1000:.0f} kB/s")

    def _tried(self, do: Callable[[], object], file: str) -> None:
        """Call `do`, again after a pause if the network may be to blame; errors name the file."""
        address = f"{self.name}/{file}"
        for attempt in range(self.retries + 1):
            try:
                do()
                return
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{address} is missing ({error}); put it there, or name another source"
                ) from error
            except ChangedError as error:
                raise ValueError(f"shard {address} is not what the index says: {error}; {self.fix}") from error
            except OSError as error:
                if isinstance(error, PermissionError) or attempt == self.retries or str(error).startswith("cache "):
                    suffix = f" after {attempt + 1} tries" if attempt else ""
                    raise OSError(f"{address} cannot be read{suffix}: {error}") from error
            time.sleep(FIRST_WAIT_S * 2**attempt)
