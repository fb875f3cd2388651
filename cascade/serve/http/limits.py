"""What a client may request and how often.

Everything here is decided before any work. A refusal is a `Refused`, which the app turns into a one-line error.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from .addresses import client_of

NOBODY = ""  # owner of everything if no keys are used


class Refused(Exception):  # noqa: N818 - a response, not a defect
    """A refused request. status: HTTP status. code: for programs. retry_after: seconds after which a retry may help. param:
    the field at fault, for OpenAI clients."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: float | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.retry_after, self.param = status, code, retry_after, param


@contextmanager
def mistakes(param: str | None = None) -> Iterator[None]:
    """Turn a ValueError raised inside into a 422 `Refused`: interpreting the request (or its field `param`) failed."""
    try:
        yield
    except ValueError as error:
        raise Refused(422, "invalid_request", str(error), param=param) from None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server; counts are per request unless stated otherwise, *_bytes in bytes, *_s in seconds.

    scale: a side of a result may be this many times the cascade's own; larger pictures count as several `images`.
    bodies_bytes: all bodies being received together. open_jobs, jobs_per_min: per key. unsaved: pictures that wait for the
    disk. streams: in total; key_streams: per key. stall_s: a reader that takes nothing for this long is dropped. abandon_s:
    a job ends this long after its last watcher has left. free_bytes: kept free on the disk. connections: in total;
    address_connections: per client address.
    """

    body_bytes: int = 16 << 20
    bodies_bytes: int = 128 << 20
    body_s: float = 30.0
    images: int = 64
    prompt_chars: int = 2000
    steps: int = 100
    scale: int = 4
    upload_pixels: int = 25_000_000
    open_jobs: int = 64
    jobs_per_min: int = 600
    unsaved: int = 512
    streams: int = 512
    key_streams: int = 64
    stall_s: float = 60.0
    heartbeat_s: float = 15.0
    abandon_s: float = 60.0
    free_bytes: int = 32 << 20
    connections: int = 1000
    address_connections: int = 256

    @property
    def requests(self) -> int:
        """Requests at work at once: fewer than connections, so that health probes always get one."""
        return self.connections - min(64, self.connections // 4)


class Rate:
    """Token bucket per owner: `per_min` tokens at once, refilled over a minute."""

    def __init__(self, per_min: int):
        self.per_min = per_min
        self._left: dict[str, tuple[float, float]] = {}  # by owner: tokens and when they were counted
        self._lock = threading.Lock()

    def take(self, owner: str, per_min: int | None = None) -> None:
        """Take a token. per_min: this owner's own rate. Raises Refused with the seconds until the next token."""
        most = self.per_min if per_min is None else per_min
        with self._lock:
            now = time.monotonic()
            left, since = self._left.get(owner, (float(most), now))
            left = min(left + (now - since) * most / 60, float(most))
            if left < 1:
                raise Refused(
                    429,
                    "too_many_requests",
                    f"more than {most} jobs a minute; try again later",
                    retry_after=(1 - left) * 60 / most,
                )
            self._left[owner] = (left - 1, now)


class Guesses:
    """Limits the guessing of keys, by client address: after `most` different wrong keys within `per_s` seconds only owners
    that had a valid key there before are accepted. Remembers at most `addresses` addresses with wrong keys, and as many
    with valid ones."""

    most, per_s, addresses = 20, 60.0, 10_000

    def __init__(self) -> None:
        self._wrong: dict[str, dict[bytes, float]] = {}  # by address: hash of a key, when it was first tried
        self._right: dict[str, set[str]] = {}  # by address: owners
        self._lock = threading.Lock()

    def tell(self, address: str, key: str, owner: str | None) -> None:
        """Report a key from an address; owner: None if it is wrong. Raises Refused once the address has sent too many wrong
        keys."""
        now, client, digest = (
            time.monotonic(),
            client_of(address),
            hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
        )
        with self._lock:
            if owner is not None and owner in self._right.get(client, ()):
                return
            wrong = {guess: tried for guess, tried in self._wrong.pop(client, {}).items() if now - tried < self.per_s}
            if wrong:
                self._wrong[client] = wrong
            if len(wrong) >= self.most and digest not in wrong:
                wait_s = self.per_s - (now - min(wrong.values()))
                message = "too many wrong keys from this address; try again later"
                raise Refused(429, "too_many_wrong_keys", message, retry_after=wait_s)
            if owner is None:
                self._wrong.setdefault(client, {}).setdefault(digest, now)
            else:
                self._right.setdefault(client, set()).add(owner)
            for table in (self._wrong, self._right):
                if len(table) > self.addresses:
                    table.pop(next(iter(table)))


class MemoryBreaker:
    """Out-of-memory breaker: opens after three failures in a row, closes after 30 s. Only time can close it, since a server
    that gets no jobs cannot show that it has recovered."""

    after, for_s = 3, 30.0

    def __init__(self) -> None:
        self._failures, self._told = 0, 0.0

    def tell(self, *, failed: bool) -> None:
        """Report whether a job failed for lack of memory."""
        self._failures, self._told = (self._failures + 1 if failed else 0), time.monotonic()

    @property
    def is_short(self) -> bool:
        """Whether the breaker is open."""
        return self._failures >= self.after and time.monotonic() - self._told < self.for_s


class Streams:
    """Counts open event streams by owner. told: called with each new total."""

    def __init__(self, limit: int, told: Callable[[int], None]):
        self.limit, self.told = limit, told
        self._of: Counter[str] = Counter()  # by owner
        self._lock = threading.Lock()

    @property
    def num(self) -> int:
        """Open streams of all owners."""
        return self._of.total()

    def reserve(self, owner: str, most: int | None = None) -> "Slot":
        """Reserve a slot for one more stream of an owner, which may have at most `most` and, if keys are used, no more than
        it leaves free for others. Raises Refused."""
        with self._lock:
            own, free = self._of[owner], self.limit - self.num
            if free <= 0 or (most is not None and own >= most) or (owner != NOBODY and own >= free):
                suffix = " of this key" if free > 0 else ""
                message = f"{own if free > 0 else self.num} streams{suffix} are open; try again later"
                raise Refused(429, "too_many_streams", message, retry_after=5)
            self._of[owner] += 1
            self.told(self.num)
        return Slot(self, owner)

    def release(self, owner: str) -> None:
        """Free the slot of an owner's stream."""
        with self._lock:
            self._of[owner] -= 1
            self.told(self.num)


class Pace:
    """Rate limit of previews: one owner gets at most `per_s` a second over all its streams and their jobs. Each stream
    costs time, so many streams of many jobs would keep the server from everything else. For the event loop's thread only."""

    def __init__(self, per_s: float = 200.0):
        self.per_s = per_s
        self._following: Counter[str] = Counter()  # by owner: followed jobs, counted once per stream

    @contextmanager
    def following(self, owner: str) -> Iterator[None]:
        """Count a stream that follows a job, inside `with`."""
        self._following[owner] += 1
        try:
            yield
        finally:
            self._following[owner] -= 1
            if not self._following[owner]:
                del self._following[owner]

    def wait_s(self, owner: str) -> float:
        """Seconds to wait after a preview of one job in one stream."""
        return self._following[owner] / self.per_s


class Slot:
    """The slot of one stream, freed when `with` ends or the object is deleted: a client may leave before its stream begins."""

    def __init__(self, streams: Streams, owner: str):
        self._streams, self._owner = streams, owner
        self._is_taken = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_taken:
            self._is_taken = False
            self._streams.release(self._owner)

    def __del__(self) -> None:
        self.__exit__()
