"""API keys: their owners, and what each owner may have.

A file has lines `NAME: KEY LIMIT=NUMBER ...`, NAME and limits being optional; # begins a comment. It is checked while the
server runs, so that a change takes effect about a second later.
"""

import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

log = logging.getLogger("cascade.serve")
MIN_KEY = 16  # characters; shorter ones can be guessed
LOOK_S = 1.0  # between checks of the file


@dataclass(frozen=True, kw_only=True)
class Share:
    """Limits for the owner of one key; None means the server's own. max_waiting: images that are not finished."""

    open_jobs: int | None = None
    jobs_per_min: int | None = None
    max_waiting: int | None = None
    streams: int | None = None
    store_mb: int | None = None


LIMITS = {field.name.replace("_", "-"): field.name for field in fields(Share)}


class Keys:
    """Keys by the name of their owner, compared in constant time. file: the one that they were read from."""

    def __init__(self, keys: Mapping[str, str], shares: Mapping[str, Share] | None = None, *, file: Path | None = None):
        self._file, self._stamp, self._looked = file, _stamp(file), time.monotonic()
        self._take(keys, shares or {})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of keys. Raises ValueError, OSError."""
        stamp = _stamp(path)
        keys = cls(*_parsed(path, path.read_bytes()), file=path)
        keys._stamp = stamp  # from before reading, so that a change meanwhile is noticed
        return keys

    def _take(self, keys: Mapping[str, str], shares: Mapping[str, Share]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self._shares = dict(shares)

    def owner(self, key: str) -> str | None:
        """Name of the owner of a key; None if it is wrong."""
        self._look()
        digest = _digest(key)
        matches = [name for name, stored in self._digests.items() if hmac.compare_digest(stored, digest)]
        return matches[0] if matches else None

    def share(self, owner: str) -> Share:
        """Limits of an owner."""
        return self._shares.get(owner, Share())

    def _look(self) -> None:
        """Read the file again if it has changed. One that is missing or damaged changes nothing and is logged once."""
        now = time.monotonic()
        if self._file is None or now - self._looked < LOOK_S:
            return
        self._looked = now
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys, shares = _parsed(self._file, _content(self._file))
        except (OSError, ValueError) as error:
            log.error("--keys: %s; the keys of before stay", error)
            return
        self._take(keys, shares)
        log.info("--keys %s: read again, %d keys", self._file, len(keys))


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    """Time of change, size and inode of a file; None if it is missing."""
    try:
        info = path.stat() if path else None
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino) if info else None


def _content(path: Path) -> bytes:
    """Content of a regular file, opened without waiting for the writer of a pipe. Raises ValueError, OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: no regular file")
        return file.read()


def _parsed(path: Path, content: bytes) -> tuple[dict[str, str], dict[str, Share]]:
    """Keys and limits by name. Raises ValueError."""
    keys: dict[str, str] = {}
    shares: dict[str, Share] = {}
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8; write keys one a line") from None
    for line_number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, value = (part.strip() for part in text.rpartition(":"))
        key, *limits = value.split() or [""]
        if len(key) < MIN_KEY or not (key.isascii() and key.isprintable()) or any("=" not in limit for limit in limits):
            raise ValueError(f"{path}:{line_number}: a key has at least {MIN_KEY} ASCII characters and no spaces")
        name = name or _digest(key).hex()[:8]
        if name in keys:
            raise ValueError(f"{path}:{line_number}: a second key of {name!r}; give it another name")
        if key in keys.values():
            raise ValueError(f"{path}:{line_number}: the key of {name!r} is another's, too; give each its own")
        keys[name], shares[name] = key, _share(limits, f"{path}:{line_number}")
    if not keys:
        raise ValueError(f"{path}: no key in it; write one a line, at least {MIN_KEY} characters")
    return keys, shares


def _share(said: list[str], where: str) -> Share:
    """Limits from words like open-jobs=8. Errors do not repeat a word: it may be part of a key. Raises ValueError."""
    limits: dict[str, int] = {}
    for item in said:
        name, _, value = item.partition("=")
        is_number = value.isascii() and value.isdecimal() and 0 < len(value) < 10 and int(value) > 0
        if name not in LIMITS or not is_number or LIMITS[name] in limits:
            allowed = ", ".join(LIMITS)
            raise ValueError(
                f"{where}: behind a key stand limits, each once, as open-jobs=8, from 1 on; there are {allowed}"
            )
        limits[LIMITS[name]] = int(value)
    return Share(**limits)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
