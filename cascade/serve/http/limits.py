"""What a client may ask for and how often.

Everything here is decided before any work. A refusal is a `Refused`, which the app turns into an answer of one line.
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

NOBODY = ""  # the owner of everything where no keys are used


class Refused(Exception):  # noqa: N818 - an answer, not a defect
    """status: of HTTP. code: for programs. retry_after: seconds, where trying again may help. param: the field, for OpenAI's
    clients."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: float | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.retry_after, self.param = status, code, retry_after, param


@contextmanager
def mistakes(param: str | None = None) -> Iterator[None]:
    """Around what a request, or a field of it, means: a ValueError there is the client's."""
    try:
        yield
    except ValueError as error:
        raise Refused(422, "invalid_request", str(error), param=param) from None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Counts are per request where nothing else is said; *_bytes bytes, *_s seconds.

    scale: a side of a result is at most so many times the cascade's own; larger pictures count as several of the `images`.
    bodies_bytes: of all bodies being read at once. open_jobs, jobs_per_min: of one key. unsaved: pictures that wait for the disk.
    stall_s: a reader that takes nothing for so long is dropped. abandon_s: a job that was watched and no longer is ends after it.
    key_streams: of one key. connections: at once; address_connections: of one client address.
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
    free_bytes: int = 32 << 20  # the disk keeps so much
    connections: int = 1000
    address_connections: int = 256

    @property
    def requests(self) -> int:
        """At work at once: some connections always wait, so that one who asks for the server's health has a place."""
        return self.connections - min(64, self.connections // 4)


class Rate:
    """A bucket of tokens for each owner: `per_min` at once, refilled over a minute."""

    def __init__(self, per_min: int):
        self.per_min = per_min
        self._left: dict[str, tuple[float, float]] = {}  # owner: tokens, when that was
        self._lock = threading.Lock()

    def take(self, owner: str, per_min: int | None = None) -> None:
        """per_min: of this owner. Raises Refused with the seconds until there is a token."""
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
    """Wrong keys by the address of the client: beyond `most` different ones within `per_s` only those who were right from there
    before are believed. Of the addresses that were wrong last, and of those that were right last, so many are remembered."""

    most, per_s, addresses = 20, 60.0, 10_000

    def __init__(self) -> None:
        self._wrong: dict[str, dict[bytes, float]] = {}  # key: when it was tried first
        self._right: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def tell(self, address: str, key: str, owner: str | None) -> None:
        """Whose key it is, or that it is nobody's. Raises Refused where neither is said any more."""
        now, place, digest = (
            time.monotonic(),
            client_of(address),
            hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
        )
        with self._lock:
            if owner is not None and owner in self._right.get(place, ()):
                return
            wrong = {each: tried for each, tried in self._wrong.pop(place, {}).items() if now - tried < self.per_s}
            if wrong:
                self._wrong[place] = wrong
            if len(wrong) >= self.most and digest not in wrong:
                wait_s = self.per_s - (now - min(wrong.values()))
                message = "too many wrong keys from this address; try again later"
                raise Refused(429, "too_many_wrong_keys", message, retry_after=wait_s)
            if owner is None:
                self._wrong.setdefault(place, {}).setdefault(digest, now)
            else:
                self._right.setdefault(place, set()).add(owner)
            for table in (self._wrong, self._right):
                if len(table) > self.addresses:
                    table.pop(next(iter(table)))


class Memory:
    """Whether requests fail for want of it: several in a row, lately. Who gets no jobs cannot show that it is well again."""

    after, for_s = 3, 30.0

    def __init__(self) -> None:
        self._failures, self._told = 0, 0.0

    def tell(self, *, failed: bool) -> None:
        self._failures, self._told = (self._failures + 1 if failed else 0), time.monotonic()

    @property
    def is_short(self) -> bool:
        return self._failures >= self.after and time.monotonic() - self._told < self.for_s


class Streams:
    """How many event streams are open. told: called with each new number."""

    def __init__(self, limit: int, told: Callable[[int], None]):
        self.limit, self.told = limit, told
        self._of: Counter[str] = Counter()  # by owner
        self._lock = threading.Lock()

    @property
    def num(self) -> int:
        return self._of.total()

    def reserve(self, owner: str, most: int | None = None) -> "Place":
        """A place for one more stream of an owner, who may have at most so many, and in any case, where there are keys, not more
        than he leaves for others. Raises Refused."""
        with self._lock:
            own, free = self._of[owner], self.limit - self.num
            if free <= 0 or (most is not None and own >= most) or (owner != NOBODY and own >= free):
                whose = " of this key" if free > 0 else ""
                message = f"{own if free > 0 else self.num} streams{whose} are open; try again later"
                raise Refused(429, "too_many_streams", message, retry_after=5)
            self._of[owner] += 1
            self.told(self.num)
        return Place(self, owner)

    def release(self, owner: str) -> None:
        with self._lock:
            self._of[owner] -= 1
            self.told(self.num)


class Pace:
    """Of previews: one owner is told at most `per_s` a second, over all his streams and the jobs in them. What is told costs by the
    stream, so that many streams of many jobs would else keep the server from everything else. All of it in the event loop's
    thread."""

    def __init__(self, per_s: float = 200.0):
        self.per_s = per_s
        self._following: Counter[str] = Counter()  # by owner: jobs, each as often as a stream follows it

    @contextmanager
    def following(self, owner: str) -> Iterator[None]:
        self._following[owner] += 1
        try:
            yield
        finally:
            self._following[owner] -= 1
            if not self._following[owner]:
                del self._following[owner]

    def wait_s(self, owner: str) -> float:
        """After a preview, of one job in one stream."""
        return self._following[owner] / self.per_s


class Place:
    """Of one stream, until `with` ends or it is forgotten: a client may leave before its stream began."""

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
