"""A source before anything is decoded: items with unique keys, and a reason for everything else."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data.tar import Span

DAMAGED = "shard that cannot be read"  # reason for shards left out with --skip-damaged


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The user's options about a source; None means detect.

    source: a name in `data.pack.sources.SOURCES`. caption_columns: those of which several captions are made.
    splits: whether folders, shards and a column may define splits. For
    tars: dotted_keys, whether keys end at the last dot of a name; skip_damaged, whether shards that cannot be read are
    left out; map_member, the extension of the member that is the map of its picture.
    """

    source: str | None = None
    text_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    label_column: str | None = None
    splits: bool = True
    dotted_keys: bool = False
    skip_damaged: bool = False
    map_member: str = ""


@dataclass(frozen=True)
class Item:
    """A picture to pack.

    `name` is its path within the source; `map` the picture of the same name in a folder of maps, or a member of
    the same key in a tar; `old` are members
    carried over from a tar; `text_column` is the field of the
    old `.json` that holds the caption; `columns` are those of which several captions are made, None where members hold them.
    """

    key: str
    name: str
    image: Span
    text: str | None = None
    label: int | None = None
    extra: dict = field(default_factory=dict)
    old: dict[str, Span] = field(default_factory=dict)
    text_column: str | None = None
    split: str = "train"
    map: Span | None = None
    columns: dict[str, Any] | None = None


Named = tuple[str, str]  # (reason, name)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source as listed: usable pictures, unusable ones, files not read; read_as describes the kind that was detected."""

    items: list[Item]
    read_as: str
    bad: list[Named] = field(default_factory=list)
    unread: list[Named] = field(default_factory=list)
    classes: list[str] | None = None


def printable(name: str) -> str:
    """A file name as text that any encoding can hold: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def whole(path: Path) -> Span:
    """The span of a whole file."""
    return Span(path, 0, path.stat().st_size)


def finished(items: Iterable[Item]) -> list[Item]:
    """The items with keys made from their names, and with a caption, empty if need be, either for all of them or for none."""
    keyed = _with_keys(items)
    if not any(map(_has_text, keyed)):
        return keyed
    return [item if _has_text(item) else replace(item, text="") for item in keyed]


def _has_text(item: Item) -> bool:
    return item.text is not None or item.text_column is not None or "txt" in item.old


def _with_keys(items: Iterable[Item]) -> list[Item]:
    """Make keys plain, without dots, unique and short."""
    keys: set[str] = set()
    out = []
    for item in items:
        stem = str(PurePosixPath(item.key).with_suffix(""))
        key = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")
        if key != stem or len(key) > 80 or key in keys:
            key = f"{key[:60]}-{hashlib.sha256(item.name.encode()).hexdigest()[:12]}"
        if key in keys:
            raise ValueError(f"source: {item.name} occurs twice; remove one")
        keys.add(key)
        out.append(replace(item, key=key))
    return out
