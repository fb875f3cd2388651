"""What a client may ask for and how often; who a client is.

Everything here is decided before any work. A refusal is a `Refused`, which the app turns into an answer of one line.
"""

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIN_KEY = 16  # characters: shorter ones can be guessed
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
    stall_s: float = 60.0
    heartbeat_s: float = 15.0
    abandon_s: float = 60.0
    free_bytes: int = 32 << 20  # the disk keeps so much


class Keys:
    """API keys by the names of their owners; comparing takes as long for a wrong key as for a right one."""

    def __init__(self, keys: Mapping[str, str]):
        self._digests = {name: _digest(key) for name, key in keys.items()}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Lines `name: key` or `key`; # begins a comment. Raises ValueError, OSError."""
        keys: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text file in UTF-8; write keys one a line") from None
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            name, _, key = (part.strip() for part in text.rpartition(":"))
            if len(key) < MIN_KEY or not (key.isascii() and key.isprintable()) or len(key.split()) > 1:
                raise ValueError(f"{path}:{number}: a key has at least {MIN_KEY} ASCII characters and no spaces")
            name = name or _digest(key).hex()[:8]
            if name in keys:
                raise ValueError(f"{path}:{number}: a second key of {name!r}; give it another name")
            if key in keys.values():
                raise ValueError(f"{path}:{number}: the key of {name!r} is another's, too; give each its own")
            keys[name] = key
        if not keys:
            raise ValueError(f"{path}: no key in it; write one a line, at least {MIN_KEY} characters")
        return cls(keys)

    def owner(self, key: str) -> str | None:
        """Whose key it is; None where it is nobody's."""
        digest = _digest(key)
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Rate:
    """A bucket of tokens for each owner: `per_min` at once, refilled over a minute."""

    def __init__(self, per_min: int):
        self.per_min = per_min
        self._left: dict[str, tuple[float, float]] = {}  # owner: tokens, when that was
        self._lock = threading.Lock()

    def take(self, owner: str) -> None:
        """Raises Refused with the seconds until there is a token."""
        with self._lock:
            now = time.monotonic()
            left, since = self._left.get(owner, (float(self.per_min), now))
            left = min(left + (now - since) * self.per_min / 60, float(self.per_min))
            if left < 1:
                raise Refused(
                    429,
                    "too_many_requests",
                    f"more than {self.per_min} jobs a minute; try again later",
                    retry_after=(1 - left) * 60 / self.per_min,
                )
            self._left[owner] = (left - 1, now)


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
    """How many event streams are open; `with` counts one. told: called with each new number."""

    def __init__(self, limit: int, told: Callable[[int], None]):
        self.limit, self.told, self.num = limit, told, 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises Refused where there is no room for another."""
        if self.num >= self.limit:
            raise Refused(429, "too_many_streams", f"{self.num} streams are open; try again later", retry_after=5)

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    def _add(self, step: int) -> None:
        with self._lock:
            self.num += step
            self.told(self.num)
