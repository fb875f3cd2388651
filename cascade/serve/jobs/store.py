"""Finished pictures, held stages and milestones of jobs on disk: PNG files with generated names and an SQLite index.

Committed data survive kill -9: a file is renamed into place before it is indexed, and files missing from the index are
removed at the next start. The oldest ended jobs of an owner expire first, by age or when bytes are needed; an owner that
holds less than an equal part loses nothing to others. A tombstone tells 410 from 404. The store also shrinks if other
programs fill the disk. No other user of the machine can read the files. All methods are thread-safe.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .states import EXPIRED, State

log = logging.getLogger("cascade.serve")

SCHEMA = """
create table if not exists jobs (
    id text primary key, owner text not null, state text not null, created real not null, parent text not null,
    request text not null
);
create index if not exists jobs_by_age on jobs (created);
create index if not exists jobs_there_by_age on jobs (created) where state != 'expired';
create index if not exists jobs_there_by_owner on jobs (owner, created) where state != 'expired';
create table if not exists pictures (
    job text not null, stage text not null, k integer not null, file text not null unique, bytes integer not null,
    width integer not null, height integer not null, primary key (job, stage, k)
);
create table if not exists events (
    job text not null, id integer not null, name text not null, data text not null, primary key (job, id)
);
"""
TOMBSTONES = 10_000  # per owner
THERE = "state != 'expired' and state in ('held', 'finished', 'failed', 'cancelled')"
PICTURE_NAME = re.compile(r"[\w-]{24}(-[0-9a-f]{16})?\.png|\.\d+\.\d+\.part")  # no other files are removed
PART_OF_DISK = 0.9  # of the room on disk: open jobs may exceed the bound, and the index is larger than its texts
SETTLE_S = 10.0  # some file systems report freed space this late
AFTER_CRASH = 1_000_000  # added to the last id: clients may have seen ids of previews, which are not stored


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job in the index. request: as JSON values. created: seconds since 1970. parent: id of the job that it refines, else
    ""."""

    id: str
    owner: str
    state: State
    created: float
    parent: str
    request: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """A picture in the index. file: its name. bytes: what it occupies on disk."""

    stage: str
    k: int
    file: str
    bytes: int
    width: int
    height: int

    @property
    def digest(self) -> str:
        """First 16 hex digits of the content's SHA-256, from the file's name."""
        return self.file[25:41]


class Store:
    """A folder of pictures with its index, locked for one server. max_bytes: limit for everything stored; it is lower if
    the disk has no room for that and `spare_bytes` more. keep_s: age at which ended jobs expire. wait_s: how long to wait
    for another server to release the folder."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 2 << 30,
        spare_bytes: int = 0,
        keep_s: float = 7 * 86400.0,
        wait_s: float = 0.0,
    ):
        self.folder, self.max_bytes, self.spare_bytes, self.keep_s = folder, max_bytes, spare_bytes, keep_s
        self.pictures_dir = folder / "pictures"
        _keep_private(folder)
        self._hold = _hold(folder, wait_s)
        self._lock = threading.RLock()
        self._most: dict[str, int] = {}  # own limits in bytes, by owner
        try:
            self._db = sqlite3.connect(folder / "index.sqlite", check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.executescript(SCHEMA)
            self._recover()
            self._bytes = self._sum()
            self._measure()
        except sqlite3.Error as error:
            self._hold.close()
            raise ValueError(f"--store {folder}: index.sqlite: {error}; choose another folder") from None
        if self._bound < max_bytes:
            log.warning(
                "store: %d MB of the %d MB that are allowed it: the disk has no more, of which %d MB stay free",
                self._bound >> 20, max_bytes >> 20, spare_bytes >> 20,
            )  # fmt: skip

    def _measure(self) -> None:
        """Measure the bytes available to the store: what it holds, plus free space, minus spare_bytes."""
        self._room, self._measured, self._has_dropped = (
            self.num_bytes + self.free_bytes - self.spare_bytes,
            time.monotonic(),
            False,
        )

    @property
    def _bound(self) -> int:
        """Limit in bytes for all owners together, as last measured."""
        return min(self.max_bytes, max(0, int(self._room * PART_OF_DISK)))

    def _recover(self) -> None:
        """Repair after a crash: open jobs become failed, unindexed files and rows without a file are removed."""
        with self._change() as db:
            for row in db.execute("select id from jobs where state in ('queued', 'running')").fetchall():
                last = db.execute("select coalesce(max(id), 0) from events where job = ?", (row["id"],)).fetchone()[0]
                failure = {"code": "server_restarted", "message": "the server was restarted while this job ran"}
                self._add_event(db, row["id"], last + AFTER_CRASH, "failed", failure)
                db.execute("update jobs set state = 'failed' where id = ?", (row["id"],))
            indexed = {row["file"] for row in db.execute("select file from pictures")}
            files = {
                entry.name: entry
                for entry in os.scandir(self.pictures_dir)
                if PICTURE_NAME.fullmatch(entry.name) and entry.is_file()
            }
            for name in files.keys() - indexed:
                (self.pictures_dir / name).unlink(missing_ok=True)
            db.executemany("delete from pictures where file = ?", [(name,) for name in indexed - files.keys()])
            sizes = ((_taken(files[name].stat()), name) for name in indexed & files.keys())
            db.executemany("update pictures set bytes = ?1 where file = ?2 and bytes != ?1", sizes)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all changes or none."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _sum(self) -> Counter[str]:
        """Bytes by owner, of pictures and of the texts in the index: prompts can be long."""
        totals: Counter[str] = Counter()
        for part in (
            "sum(bytes) from pictures join jobs on jobs.id = job",
            "sum(length(request) - 2) from jobs",  # minus the braces, which a tombstone has too
            "sum(length(data)) from events join jobs on jobs.id = job",
        ):
            for owner, num_bytes in self._rows(f"select owner, {part} group by owner"):
                totals[owner] += num_bytes
        return totals

    @property
    def num_bytes(self) -> int:
        """Bytes stored for all owners."""
        return self._bytes.total()

    def limit(self, owner: str, num_bytes: int | None) -> None:
        """Set a limit for one owner; None removes it, so that only the common limit applies."""
        with self._lock:
            self._most.pop(owner, None)
            if num_bytes is not None:
                self._most[owner] = num_bytes

    @property
    def free_bytes(self) -> int:
        """Free bytes on the disk."""
        return shutil.disk_usage(self.folder).free

    @property
    def is_there(self) -> bool:
        """Whether the folder of pictures exists."""
        return self.pictures_dir.is_dir()

    def add_job(self, job: JobRow) -> None:
        """Add a job to the index."""
        request = json.dumps(job.request)
        with self._change() as db:
            db.execute(
                "insert into jobs values (?, ?, ?, ?, ?, ?)",
                (job.id, job.owner, job.state, job.created, job.parent, request),
            )
        self._count(job.owner, len(request) - 2)

    def forget(self, job: JobRow) -> None:
        """Remove a job that was not accepted after all."""
        with self._change() as db:
            removed = db.execute("delete from jobs where id = ?", (job.id,)).rowcount
        self._count(job.owner, -removed * (len(json.dumps(job.request)) - 2))

    def _count(self, owner: str, num_bytes: int) -> None:
        with self._lock:
            self._bytes[owner] += num_bytes

    def _owner(self, job: str) -> str:
        return next((row["owner"] for row in self._rows("select owner from jobs where id = ?", job)), "")

    def add_event(self, job: str, number: int, name: str, data: dict[str, Any], *, state: State) -> None:
        """Record a milestone and the state that it sets."""
        with self._change() as db:
            length = self._add_event(db, job, number, name, data)
            db.execute("update jobs set state = ? where id = ?", (state, job))
        self._count(self._owner(job), length)

    def _add_event(self, db: sqlite3.Connection, job: str, number: int, name: str, data: dict[str, Any]) -> int:
        text = json.dumps(data)
        db.execute("insert or replace into events values (?, ?, ?, ?)", (job, number, name, text))
        return len(text)

    def add_picture(self, job: str, stage: str, k: int, size: tuple[int, int], save: Callable[[Path], None]) -> None:
        """Store a picture of size (width, height) under a name with its hash, and index it. `save` writes the file whole or
        not at all. Raises OSError or sqlite3.Error, as on a full disk."""
        path = self.pictures_dir / f"{secrets.token_urlsafe(18)}.png"
        try:
            save(path)
            path.chmod(0o600)
            path = path.rename(path.with_stem(f"{path.stem}-{_digest(path.read_bytes())}"))
            num_bytes = _taken(path.stat())
            with self._change() as db:
                db.execute(
                    "insert into pictures values (?, ?, ?, ?, ?, ?, ?)", (job, stage, k, path.name, num_bytes, *size)
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._count(self._owner(job), num_bytes)

    def find(self, job: str, owner: str) -> JobRow | None:
        """The job, if it belongs to this owner."""
        rows = self._rows("select * from jobs where id = ? and owner = ?", job, owner)
        return _job(rows[0]) if rows else None

    def jobs(self, owner: str, limit: int, before: tuple[float, str] = (math.inf, "")) -> list[JobRow]:
        """Jobs of an owner, newest first, without expired ones. before: (created, id) of the job that they follow."""
        query = (
            "select * from jobs where owner = ? and state != ? and (created, id) < (?, ?) "
            "order by created desc, id desc limit ?"
        )
        return [_job(row) for row in self._rows(query, owner, EXPIRED, *before, limit)]

    def events(self, job: str) -> list[tuple[int, str, dict[str, Any]]]:
        """(id, name, data) of the milestones of a job, in order."""
        rows = self._rows("select id, name, data from events where job = ? order by id", job)
        return [(row["id"], row["name"], json.loads(row["data"])) for row in rows]

    def pictures(self, job: str) -> list[PictureRow]:
        """Pictures of a job, in the order of storing."""
        rows = self._rows("select * from pictures where job = ? order by rowid", job)
        return [PictureRow(**{key: row[key] for key in PictureRow.__dataclass_fields__}) for row in rows]

    def read(self, picture: PictureRow) -> bytes | None:
        """Content of a picture; None if it has expired or the file does not match its hash."""
        try:
            content = (self.pictures_dir / picture.file).read_bytes()
        except FileNotFoundError:
            return None
        return content if picture.file == f"{picture.file[:24]}-{_digest(content)}.png" else None

    def expire(self, writer: str | None = None) -> int:
        """Drop jobs that are too old, then the oldest of owners that hold too much, beginning with `writer`, until the
        limits hold; returns the number of jobs."""
        dropped = 0
        with self._lock:
            if not self._has_dropped or time.monotonic() - self._measured >= SETTLE_S:
                self._measure()
        while job := self._too_old() or self._too_much(writer):
            self.drop(job)
            dropped += 1
        return dropped

    def _too_old(self) -> str | None:
        rows = self._rows(f"select id, created from jobs where {THERE} order by created limit 1")
        return rows[0]["id"] if rows and rows[0]["created"] <= time.time() - self.keep_s else None

    def _too_much(self, writer: str | None) -> str | None:
        with self._lock:
            held, most = +self._bytes, self._bound or self.max_bytes  # bound 0: removing everything would not make room
            above = [owner for owner in held if held[owner] > self._most.get(owner, most)]
            if held.total() > most:
                above += [owner for owner in held if held[owner] > most // len(held)]
        for owner in sorted(above, key=lambda each: (each != writer, -held[each])):
            rows = self._rows(f"select id from jobs where owner = ? and {THERE} order by created limit 1", owner)
            if rows:
                return rows[0]["id"]
        return None

    def is_beyond_disk(self, owner: str) -> bool:
        """Whether the store exceeds what the disk has room for and this owner more than an equal part of it; after `expire`
        only open jobs can."""
        with self._lock:
            held = +self._bytes
            return 0 < self._bound < self.max_bytes and held.total() > self._bound < held[owner] * len(held)

    def drop(self, job: str) -> None:
        """Remove pictures, milestones and request of an ended job; a tombstone stays."""
        owner = self._owner(job)
        with self._change() as db:
            parts = ("sum(length(request) - 2) from jobs where id = ?", "sum(length(data)) from events where job = ?")
            length = sum(db.execute(f"select {part}", (job,)).fetchone()[0] or 0 for part in parts)
            files = db.execute("select file, bytes from pictures where job = ?", (job,)).fetchall()
            db.execute("delete from pictures where job = ?", (job,))
            db.execute("delete from events where job = ?", (job,))
            db.execute("update jobs set state = ?, request = '{}' where id = ?", (EXPIRED, job))
            db.execute(
                "delete from jobs where owner = ? and state = ? and id not in "
                "(select id from jobs where owner = ? and state = ? order by created desc limit ?)",
                (owner, EXPIRED, owner, EXPIRED, TOMBSTONES),
            )
        self._count(owner, -length - sum(row["bytes"] for row in files))
        self._has_dropped = True
        for row in files:
            (self.pictures_dir / row["file"]).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the index and release the folder."""
        with self._lock:
            self._db.close()
            self._hold.close()


def _keep_private(folder: Path) -> None:
    """Create the store's files and folders for this user alone: they hold prompts and pictures. An existing folder that is
    no store keeps its own permissions."""
    is_ours = not folder.exists() or (folder / "index.sqlite").exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pictures_dir = folder / "pictures"
    pictures_dir.mkdir(mode=0o700, exist_ok=True)
    for name in ("lock", "index.sqlite"):  # SQLite gives its side files the same mode
        (folder / name).touch(mode=0o600)
    folders = (folder, pictures_dir) if is_ours else (pictures_dir,)
    files = [folder / "lock", *folder.glob("index.sqlite*")]
    files += [path for path in pictures_dir.iterdir() if PICTURE_NAME.fullmatch(path.name) and path.is_file()]
    for path in (*folders, *files):
        if path.stat().st_uid == os.geteuid():  # only the owner may change the mode
            path.chmod(0o700 if path.is_dir() else 0o600)


def _hold(folder: Path, wait_s: float) -> IO[str]:
    """Lock a store's folder. Raises ValueError if another process holds it for wait_s seconds."""
    lock, deadline = (folder / "lock").open("a"), time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() >= deadline:
                lock.close()
                raise ValueError(f"--store {folder}: another server uses it; choose another folder") from None
        time.sleep(0.1)


def _taken(about: os.stat_result) -> int:
    """Bytes that a file occupies on disk: a small one takes whole blocks."""
    return max(about.st_size, about.st_blocks * 512)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(**{**dict(row), "request": json.loads(row["request"])})
