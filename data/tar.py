"""Read untrusted tars: strict, size-limited, and never silent about loss.

A *member* is one file in a tar, a *sample* all members of one key (`key.png`, `key.txt`, ...); the key ends at the
first dot of the name, as for webdataset. `stream` reads a tar from start to end and needs the members of a key to be
adjacent; `contents` finds them anywhere in a file. Other tar readers stop without an exception at a broken header and
at a cut on a block boundary; here only a block of zeros ends a tar. Only the index can tell that a whole tar is the one
that was packed (`data.index`, `data.read.shards`).
"""

import hashlib
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from data.captions import MAX_CAPTION_BYTES

MIB = 1 << 20
# Extensions that are read at all, and the most bytes of one member. Nothing here is executable, compressed twice, or a pickle.
MEMBER_LIMITS = {
    "jpg": 64 * MIB,
    "jpeg": 64 * MIB,
    "png": 64 * MIB,
    "webp": 64 * MIB,
    **dict.fromkeys(("apng", "jpe", "jfif", "gif", "bmp", "dib", "tif", "tiff", "avif"), 64 * MIB),
    "json": MIB,
    "txt": MAX_CAPTION_BYTES,
    "cls": 64,
    "npy": 4 * MIB,
}
IMAGE_MEMBERS = ("png", "jpg", "jpeg", "webp")
PACK_MEMBERS = (*IMAGE_MEMBERS, "apng", "jpe", "jfif", "gif", "bmp", "dib", "tif", "tiff", "avif")  # read when packing
TEXT_MEMBER = "text.npy"
MAP_MEMBER = "map.png"
CAPTIONS_MEMBER, FEATURES_MEMBER = "captions.json", "captions.npy"  # of several captions: texts, token features
NOT_UNPACKED = "is compressed; unpack it (gunzip, unzstd, ...)"
OWN_MEMBERS = (TEXT_MEMBER, MAP_MEMBER, CAPTIONS_MEMBER, FEATURES_MEMBER)  # of two words
NO_PICTURE, DOT_IN_KEY = "no picture", "dot in the key, see --dotted-keys"  # reasons not to use a sample
COMPRESSED = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z",
)  # fmt: skip

Sample = dict[str, bytes]  # extension to content


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie: `size` bytes of `path` from `offset`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; ValueError if the file has become shorter."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise ValueError(f"{self.path.name} was cut while it was read")
        return content


class StrictInfo(tarfile.TarInfo):
    """A tar header that must not be broken, missing or absurd: tarfile takes the first two for the end of the tar."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Parse one header block; ReadError where tarfile would end the tar silently."""
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # a block of zeros: the real end
                raise
            raise tarfile.ReadError(f"{error} where a member or the end mark should be") from error
        is_data = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if info.size < 0 or (not is_data and info.size > MIB):
            raise tarfile.ReadError(f"absurd size {info.size} of {info.name!r}")
        return info


class Hashing:
    """A file that counts and hashes what is read from it, so that checking a shard needs no second pass."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Read as from a file; a second read beyond the end is an error, for a header may promise terabytes to be skipped."""
        content = self.file.read(size)
        if not content and self._ended:
            raise tarfile.ReadError("unexpected end of data")
        self._ended = not content
        self.num_bytes += len(content)
        self.sha256.update(content)
        return content

    def drain(self) -> None:
        """Read the rest, so that count and hash cover the whole file."""
        while self.read(MIB):
            pass


def open_shard(path: Path) -> BinaryIO:
    """Open a local shard for streaming."""
    return path.open("rb")


class ShardError(ValueError):
    """A tar that cannot be read; `why` states the fault."""

    def __init__(self, name: str, why: str):
        super().__init__(f"shard {name} {why}")
        self.name, self.why = name, why


@dataclass(frozen=True)
class Contents:
    """What a tar holds under one key, by extension: members that are read; others, with the reason if they are too large."""

    key: str
    members: dict[str, Span] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    @property
    def extensions(self) -> str:
        """All extensions of the key, as text for messages."""
        return ", ".join(f".{ext}" for ext in sorted(self.members | self.others))


def is_tar(name: str) -> bool:
    """Whether a file is a shard, by its name."""
    return name.lower().endswith(".tar")


def is_compressed(name: str) -> bool:
    """Whether a file is a compressed shard, by its name."""
    return name.lower().endswith(COMPRESSED)


def check_shards(faults: list[ShardError], num: int, *, skip: str) -> None:
    """Raise ValueError if any of `num` shards cannot be read: names all of them, and the option that leaves them out."""
    if not faults:
        return
    fix = f"restore {'it' if len(faults) == 1 else 'them'}, or add {skip} to leave out what cannot be read"
    if len(faults) == 1:
        raise ValueError(f"{faults[0]}; {fix}") from faults[0]
    details = "; ".join(f"{fault.name} {fault.why}" for fault in faults)
    raise ValueError(f"{len(faults)} of {num} shards cannot be read ({details}); {fix}")


def dotted_pictures(extensions: Iterable[str]) -> list[str]:
    """Of a key without a picture, the extensions that indicate a dot in the key: "v2.jpg" of img.v2.jpg."""
    return [ext for ext in extensions if ext.rpartition(".")[2] in PACK_MEMBERS and "." in ext]


def without_picture(extensions: Collection[str]) -> str:
    """Why the members of a key are no sample that readers can use: a dot in the key, or no picture."""
    names = dotted_pictures(extensions)
    return f"{DOT_IN_KEY}: only {', '.join(f'.{ext}' for ext in names)}" if names else NO_PICTURE


def allowed(extension: str, size: int) -> bool:
    """Whether a member is of a kind that is read, and within the size limit of its kind."""
    return size <= MEMBER_LIMITS.get(extension.rpartition(".")[2], -1)


def why_not(extension: str, size: int) -> str:
    """How a member exceeds its size limit; empty if it does not, or is of a kind that is not read."""
    limit = MEMBER_LIMITS.get(extension.rpartition(".")[2])
    return "" if limit is None or size <= limit else f"{size:,} bytes, at most {limit:,}"


def stream(
    file: Any,
    name: str,
    want: Callable[[str], bool] | None = None,
    too_large: Callable[[str, str], None] | None = None,
) -> Iterator[tuple[str, Sample]]:
    """Yield (key, sample) for each key of a tar, read from start to end; members not allowed or not wanted are skipped.

    A key is yielded even if none of its members was read, so that the count does not depend on `want`. too_large is
    called with the name and the size of each member that is skipped for its size.
    """
    from webdataset.tariterators import group_by_keys

    with _faults_named(name), tarfile.open(fileobj=file, mode="r|", tarinfo=StrictInfo) as tar:
        for sample in group_by_keys(_read_members(tar, want, too_large)):
            members = {ext: data for ext, data in sample.items() if data is not None and not ext.startswith("__")}
            yield sample["__key__"], members


def contents(path: Path, *, dotted: bool = False) -> list[Contents]:
    """What lies under each key of a tar file, in the order of first members; only headers are read.

    dotted: keys end at the last dot of a name. ShardError if the tar is damaged or has a member twice.
    """
    samples: dict[str, Contents] = {}
    if is_compressed(path.name):
        raise ShardError(str(path), NOT_UNPACKED)
    with _faults_named(str(path)), tarfile.open(path, mode="r:", tarinfo=StrictInfo) as tar:
        for info in _regular(tar):
            key, extension = split_name(info.name, dotted=dotted)
            if not key:
                continue  # hidden, or without an extension
            sample = samples.setdefault(key, Contents(key))
            if extension in sample.members or extension in sample.others:
                raise ValueError(f"{info.name}: duplicate file name in tar file")
            if allowed(extension, info.size):
                sample.members[extension] = Span(path, info.offset_data, info.size)
            else:
                sample.others[extension] = why_not(extension, info.size)
    return list(samples.values())


def split_name(name: str, *, dotted: bool = False) -> tuple[str, str]:
    """(key, extension) of a member's name; ("", "") if it belongs to no sample."""
    from webdataset.tariterators import base_plus_ext

    key, extension = base_plus_ext(name)
    if key and dotted:
        own = (each for each in OWN_MEMBERS if name.lower().endswith(f".{each}"))
        ending = next(own, name.rpartition(".")[2])
        key, extension = name[: -len(ending) - 1], ending
    return (key, extension.lower()) if key else ("", "")


def _read_members(
    tar: tarfile.TarFile, want: Callable[[str], bool] | None, too_large: Callable[[str, str], None] | None
) -> Iterator[dict]:
    for info in _regular(tar):
        extension = info.name.rpartition("/")[2].partition(".")[2].lower()
        data = None
        if allowed(extension, info.size) and (want is None or want(extension)):
            reader = tar.extractfile(info)
            assert reader is not None
            data = reader.read()
        elif too_large and (reason := why_not(extension, info.size)):
            too_large(info.name, reason)
        yield {"fname": info.name, "data": data, "__url__": ""}


def _regular(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None:  # type: ignore[attr-defined]
            yield info


@contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """Turn what tarfile and webdataset raise about a tar into one ShardError."""
    try:
        yield
    except ShardError:
        raise
    except OSError as error:
        raise ShardError(name, f"cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(name, f"is damaged ({error})") from error
    except ValueError as error:  # raised by group_by_keys, with odd extra arguments
        raise ShardError(name, f"has a key twice ({error.args[0]})") from error
