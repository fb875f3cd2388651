"""Write samples to shards: worker processes that decode, tars with reproducible bytes, a data set moved into place at the end."""

import multiprocessing
import multiprocessing.context
import os
import re
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from data.disk import room_told
from data.files import make_folder
from data.index import INDEX_NAME, ShardInfo, load
from data.orphans import end_with_parent
from data.stop import held_back
from data.tar import Sample

PACKING = "packing.part"  # folder in which a data set is built before it is moved into place
SHARD_NAME = re.compile(r"(train|val|test)-\d{5}\.tar")
ITEMS_AT_ONCE = 16  # items given to a worker process at once

A = TypeVar("A")
B = TypeVar("B")


class Shard:
    """A tar written sample by sample. The same samples give the same bytes."""

    def __init__(self, folder: Path, name: str, split: str):
        from webdataset.writer import TarWriter

        self.name, self.split, self.num = name, split, 0
        self._file = _HashingWriter((folder / name).open("wb"))
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="", group="")

    def add(self, key: str, sample: Sample) -> None:
        """Append one sample."""
        self._tar.write({"__key__": key, **sample})
        self.num += 1

    def close(self) -> ShardInfo:
        """Finish the tar; returns its entry for the index."""
        self._tar.close()
        self._file.file.close()
        digest = self._file.sha256.hexdigest()
        return ShardInfo(name=self.name, split=self.split, num=self.num, bytes=self._file.num_bytes, sha256=digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, ValueError):  # of what the tar still buffers: `close` was called unless something failed
            self._tar.close()
        with suppress(OSError):  # a full disk would raise again, and replace the first error
            self._file.file.close()


class _HashingWriter:
    def __init__(self, file: BinaryIO):
        import hashlib

        self.file, self.num_bytes, self.sha256 = file, 0, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.num_bytes += len(content)
        self.sha256.update(content)
        return self.file.write(content)


@contextmanager
def workspace(dst: Path) -> Iterator[Path]:
    """A folder inside `dst` to build in: on success its files move up, index.json last; otherwise nothing stays."""
    import webdataset.writer  # noqa: F401  before there is a folder: a stop in the midst of an import cleans nothing up

    created = not dst.exists()
    part = dst / PACKING
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    try:
        with room_told(dst):
            yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if created:
            dst.rmdir()
        raise
    _commit(part, dst)


def check_target(src: Path, dst: Path) -> None:
    """Refuse a target that is no folder, or lies inside the source or around it."""
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"target {dst} is a file; name a folder")
    source, target = src.resolve(), dst.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"target {dst} and source {src} lie within each other; name a folder elsewhere")


def is_free(dst: Path) -> bool:
    """Whether `dst` can take a data set without --overwrite: it is missing, empty, or left by an interrupted run."""
    names = {path.name for path in dst.iterdir()} if dst.exists() else set()
    interrupted = PACKING in names and INDEX_NAME not in names
    return all(name == PACKING or (interrupted and SHARD_NAME.fullmatch(name)) for name in names)


def _commit(part: Path, dst: Path) -> None:
    for path in _old_files(dst):
        path.unlink(missing_ok=True)
    for path in sorted(part.rglob("*"), key=lambda path: (path.name == INDEX_NAME, path)):
        if path.is_file():
            target = dst / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    shutil.rmtree(part)


def _old_files(dst: Path) -> list[Path]:
    """The files of the data set that is replaced, its index first, then its shards; other files stay."""
    try:
        names = [shard.name for shard in load(dst).shards]
    except ValueError:
        names = []
    names += [path.name for path in dst.iterdir() if SHARD_NAME.fullmatch(path.name)]
    return [dst / name for name in (INDEX_NAME, *names)]


def parallel(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Yield function(item) for each item, in order, from worker processes (0: from this one), with few results waiting."""
    if workers == 0:
        yield from map(function, items)
        return
    remaining, futures = iter(items), deque[Any]()
    try:
        with ExitStack() as stack:
            # no signal may abandon half-started processes, which die with a traceback; they do receive SIGTERM, which stops them
            with held_back((signal.SIGINT, signal.SIGHUP)):
                pool = ProcessPoolExecutor(workers, mp_context=_fresh_processes(), initializer=_start_worker)
                stack.callback(pool.shutdown, cancel_futures=True)
                pool.submit(int).result()
            while True:
                while len(futures) < 3 * workers and (chunk := list(islice(remaining, ITEMS_AT_ONCE))):
                    futures.append(pool.submit(_each, function, chunk))
                if not futures:
                    return
                yield from futures.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError("a worker process was killed (too little memory?); try --workers 1") from error


def _fresh_processes() -> multiprocessing.context.BaseContext:
    """Start processes without the threads and locks that a fork would copy; torch is imported once for all of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.resize", "data.pack.encode"])
    return context


def _each(function: Callable[[Any], Any], chunk: list) -> list:
    return [function(item) for item in chunk]


def _start_worker() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
