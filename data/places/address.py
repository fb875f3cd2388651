"""Open a place, as a user writes it: a folder, some shards of one, an address, a command.

`shards/emoji`, `shards/emoji/train-0000{0..3}.tar`, `shards/emoji/train-*.tar`, `https://HOST/emoji`,
`s3://BUCKET/emoji/train-*.tar`, `pipe:ssh HOST cat /data/emoji/{}`. Names are used as written: no variable, no ~ and no
command in them is expanded.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data.index import INDEX_NAME, Index, ShardInfo, count_images, fingerprint, folder_of
from data.places.cache import GB, ShardCache, default_folder
from data.places.kinds import FsSpec, Http, Pipe
from data.places.remote import RemoteStore, Transport
from data.places.store import DataSet, LocalStore, ShardStore

MAX_NAMES = 1_000_000  # that a brace list may expand to


@dataclass(frozen=True, kw_only=True)
class Access:
    """How places other than local folders may be reached.

    allow_pipe: whether `pipe:` may run a shell command. cache_dir None: `data.places.cache.default_folder()`.
    timeout_s: longest time without a byte, for each try. retries: after the first try, each after a longer pause.
    """

    allow_pipe: bool = False
    cache_dir: Path | None = None
    cache_bytes: int = 50 * GB
    timeout_s: float = 30.0
    retries: int = 3

    def __post_init__(self):
        if self.cache_bytes <= 0 or self.timeout_s <= 0 or self.retries < 0:
            raise ValueError(
                f"cache of {self.cache_bytes} bytes, timeout of {self.timeout_s} s, {self.retries} retries: "
                "the first two must be above 0, the last at least 0"
            )


ACCESS = Access()


def open_place(place: str | Path, access: Access = ACCESS) -> DataSet:
    """Open the data set at `place`; a pattern restricts its index to the shards that match."""
    text = str(place)
    if not text:
        raise ValueError("data '': an empty place; name a folder of shards, or an address")
    if text.startswith("pipe:"):
        store: ShardStore = _remote(_pipe(text, access), access)
        return DataSet(store, store.index())
    if "://" in text and not text.startswith("file://"):
        folder, pattern, query = _split_address(text)
        store = _remote(_address(folder, query, access), access)
    else:
        folder, pattern = _split_path(_local_path(text))
        store = LocalStore(Path(folder))
    index = store.index()
    return DataSet(store, restricted(index, pattern, store.name) if pattern else index)


def restricted(index: Index, pattern: str, name: str) -> Index:
    """`index` with only the shards whose names match a glob or brace list, and with their fingerprint."""
    patterns = list(_expanded(pattern, name))
    matches = {p: [s for s in index.shards if fnmatchcase(s.name, p)] for p in patterns}
    if unmatched := [p for p in patterns if not matches[p]]:
        known = ", ".join(shard.name for shard in index.shards[:3])
        raise ValueError(f"data {name}: no shard is called {', '.join(unmatched[:3])}; {INDEX_NAME} has {known}, ...")
    names = {shard.name for shards in matches.values() for shard in shards}
    return with_shards(index, [shard for shard in index.shards if shard.name in names])


def with_shards(index: Index, shards: list[ShardInfo]) -> Index:
    """`index` with other shards, without the class counts of the old ones."""
    if len(shards) == len(index.shards):
        return index
    changes = {"shards": shards, "num_images": count_images(shards), "fingerprint": fingerprint(shards, index.captions)}
    return index.model_copy(update=changes | {"label_counts": None})


def _expanded(pattern: str, name: str) -> Iterator[str]:
    from braceexpand import braceexpand

    try:
        return islice(braceexpand(pattern, escape=False), MAX_NAMES)
    except ValueError as error:
        raise ValueError(f"data {name}: braces in {pattern!r} do not match; write train-0000{{0..3}}.tar") from error


def _is_pattern(name: str) -> bool:
    return any(char in name for char in "*?[{")


def _local_path(text: str) -> str:
    """The path of a file:// address; other texts unchanged."""
    if not text.startswith("file://"):
        return text
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"data {text}: file:// of the host {parts.netloc!r}; write file:///PATH")
    return unquote(text.removeprefix("file://").removeprefix(parts.netloc))


def _split_path(text: str) -> tuple[str, str]:
    """(folder, pattern or ""); a name that exists is never a pattern."""
    path = Path(text)
    if path.exists() or not (_is_pattern(path.name) or path.suffix == ".tar"):
        single = path.is_file() and path.suffix == ".tar"
        return (str(path.parent), glob.escape(path.name)) if single else (str(folder_of(path)), "")
    _refuse_patterns(str(path.parent), text)
    return str(path.parent), path.name


def _split_address(text: str) -> tuple[str, str, str]:
    """(address of the folder, pattern or "", query); only http(s) addresses have a query."""
    folder, _, query = text.partition("?") if text.startswith(("http://", "https://")) else (text, "", "")
    folder, _, last = folder.rpartition("/") if not folder.endswith("/") else (folder.rstrip("/"), "", "")
    pattern = last if _is_pattern(last) or last.endswith(".tar") else ""
    if last and not pattern and last != INDEX_NAME:
        folder = f"{folder}/{last}"
    _refuse_patterns("".join(folder.split("/", 3)[3:]), text)
    return folder, pattern, query


def _refuse_patterns(folder: str, text: str) -> None:
    if _is_pattern(folder):
        raise ValueError(
            f"data {text}: only the last part may be a pattern, for it names shards of one folder; give more folders one by one"
        )


def _address(folder: str, query: str, access: Access) -> Transport:
    if not folder.startswith(("http://", "https://")):
        source = FsSpec(folder)
        source.check()
        return source
    parts = urlsplit(folder)
    if not parts.hostname or parts.username is not None:
        raise ValueError("data: a web address needs a host and no user in it; write https://HOST/FOLDER?TOKEN")
    return Http(folder, query, access.timeout_s)


def _pipe(text: str, access: Access) -> Pipe:
    if not access.allow_pipe:
        raise ValueError(
            f"data {text!r} would run a shell command; allow it with allow_pipe (--allow-pipe), if you wrote it yourself"
        )
    command = text.removeprefix("pipe:").strip()
    if "{}" not in command:
        raise ValueError(f"data {text!r} has no {{}} for the shard's name; write pipe:ssh HOST cat /data/{{}}")
    return Pipe(command, access.timeout_s)


def _remote(source: Transport, access: Access) -> RemoteStore:
    cache = ShardCache(folder=access.cache_dir or default_folder(), max_bytes=access.cache_bytes)
    return RemoteStore(source, cache, access.retries, access.timeout_s)
