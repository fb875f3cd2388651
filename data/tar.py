"""Reading tars that others may have written: sequential, size-limited, and never silent about loss.

A *member* is one file in a tar, a *sample* all members of one key (`key.png`, `key.txt`, ...), as webdataset groups
them. Tar readers stop without an exception at a broken header and at a cut on a boundary; here only a block of zeros
ends a tar. That a whole tar is the one that was packed can only the index tell (`data.index`, `data.shards`).
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MIB = 1 << 20
# What is read at all, and the most bytes of one member. Nothing here is executable, compressed twice, or a pickle.
MEMBER_LIMITS = {
    "jpg": 64 * MIB,
    "jpeg": 64 * MIB,
    "png": 64 * MIB,
    "webp": 64 * MIB,
    "json": MIB,
    "txt": MIB // 4,
    "cls": 64,
    "npy": 4 * MIB,
}
IMAGE_MEMBERS = ("png", "jpg", "jpeg", "webp")
TEXT_MEMBER = "text.npy"

Sample = dict[str, bytes]  # extension to content


@dataclass(frozen=True)
class Span:
    """Where the bytes of a member lie: `size` bytes of `path` from `offset`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise ValueError(f"{self.path.name} was cut while it was read")
        return content


class StrictInfo(tarfile.TarInfo):
    """A tar header that may not be broken, missing or absurd: tarfile takes the first two for the end of the tar."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # a block of zeros: the honest end
                raise
            raise tarfile.ReadError(f"{error} where a member or the end mark should be") from error
        is_data = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if info.size < 0 or (not is_data and info.size > MIB):
            raise tarfile.ReadError(f"absurd size {info.size} of {info.name!r}")
        return info


class Hashing:
    """A file that counts and hashes what is read from it, so that checking a shard costs no second pass."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """As a file's; beyond the end twice is an error, for a header may promise terabytes to be stepped over."""
        content = self.file.read(size)
        if not content and self._ended:
            raise tarfile.ReadError("unexpected end of data")
        self._ended = not content
        self.num_bytes += len(content)
        self.sha256.update(content)
        return content

    def drain(self) -> None:
        """Read what is left, so that count and hash are those of the whole file."""
        while self.read(MIB):
            pass


def open_shard(path: Path) -> BinaryIO:
    """The one place that opens a shard for streaming; an object store would be opened here."""
    return path.open("rb")


def allowed(extension: str, size: int) -> bool:
    """Whether a member is of a kind that is read, and not larger than such a member may be."""
    return size <= MEMBER_LIMITS.get(extension.rpartition(".")[2], -1)


def stream(file: Any, name: str, want: Callable[[str], bool] | None = None) -> Iterator[tuple[str, Sample]]:
    """(key, sample) for each key of a tar read from start to end; members not allowed or not wanted are stepped over.

    A key is yielded even if none of its members was, so that the count does not depend on `want`.
    """
    with _faults_named(name), tarfile.open(fileobj=file, mode="r|", tarinfo=StrictInfo) as tar:
        yield from _grouped(_read_members(tar, want))


def spans(path: Path) -> Iterator[tuple[str, dict[str, Span]]]:
    """(key, extension to where it lies) for each key of a tar file; only headers are read."""
    with _faults_named(str(path)), tarfile.open(path, mode="r:", tarinfo=StrictInfo) as tar:
        yield from _grouped(_find_members(tar, path))


def _read_members(tar: tarfile.TarFile, want: Callable[[str], bool] | None) -> Iterator[dict]:
    for info, extension in _regular(tar):
        if allowed(extension, info.size) and (want is None or want(extension)):
            reader = tar.extractfile(info)
            assert reader is not None
            yield {"fname": info.name, "data": reader.read(), "__url__": ""}
        else:
            yield {"fname": info.name, "data": None, "__url__": ""}


def _find_members(tar: tarfile.TarFile, path: Path) -> Iterator[dict]:
    for info, extension in _regular(tar):
        span = Span(path, info.offset_data, info.size) if allowed(extension, info.size) else None
        yield {"fname": info.name, "data": span, "__url__": ""}


def _regular(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None:  # type: ignore[attr-defined]
            yield info, info.name.rpartition("/")[2].partition(".")[2].lower()


def _grouped(members: Iterator[dict]) -> Iterator[tuple[str, dict]]:
    from webdataset.tariterators import group_by_keys

    for sample in group_by_keys(members):
        found = {ext: data for ext, data in sample.items() if data is not None and not ext.startswith("__")}
        yield sample["__key__"], found


@contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """What tarfile and webdataset raise about a tar, as one ValueError that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"shard {name} is damaged ({error}); restore it, or leave it out and index again") from error
    except ValueError as error:  # of group_by_keys, with odd extra arguments
        raise ValueError(f"shard {name}: {error.args[0]}; keys must be unique") from error
