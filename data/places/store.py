"""Where a data set lies, for any kind of place: its index, and its shards as open files.

`data.places.address` opens the store of a place; `data.places.remote` has the stores that are not local folders.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from data.index import INDEX_NAME, Index, ShardInfo, check_files, load
from data.tar import open_shard


class ShardStore(Protocol):
    """An opened place. `name` is for messages; stores are small values that are copied to worker processes."""

    @property
    def name(self) -> str:
        """The place, for messages."""
        ...

    def index(self) -> Index:
        """The index of the whole folder."""

    def check(self, shards: list[ShardInfo]) -> None:
        """Raise ValueError naming a shard that is not there; cheap."""

    def where(self, shard: ShardInfo) -> str:
        """Path or address of a shard, for messages."""

    def open(self, shard: ShardInfo) -> BinaryIO:
        """Open a shard at its start; the caller closes it."""

    def expect(self, shards: Iterable[ShardInfo]) -> None:
        """Announce shards that will be opened soon and may be fetched in the background."""

    def distrust(self, shard: ShardInfo) -> str:
        """Drop any copy of a shard that was not the one of the index; returns what the user can do."""


@dataclass(frozen=True)
class LocalStore:
    """A folder on a file system."""

    folder: Path

    @property
    def name(self) -> str:
        """The path of the folder."""
        return str(self.folder)

    def index(self) -> Index:
        """Load the index of the folder."""
        return load(self.folder)

    def check(self, shards: list[ShardInfo]) -> None:
        """Raise ValueError unless every shard is there with its length."""
        check_files(self.folder, shards)

    def where(self, shard: ShardInfo) -> str:
        """Path of a shard."""
        return str(self.folder / shard.name)

    def open(self, shard: ShardInfo) -> BinaryIO:
        """Open a shard at its start."""
        return open_shard(self.folder / shard.name)

    def expect(self, shards: Iterable[ShardInfo]) -> None:
        """Nothing to do: the operating system reads ahead."""

    def distrust(self, shard: ShardInfo) -> str:
        """What the user can do about a shard that is not the one of the index."""
        return f"restore it, or if it was changed on purpose run: python -m data.index {self.folder} --update"


@dataclass(frozen=True)
class DataSet:
    """A store and the part of it that is used: `index` may list fewer shards than the folder has."""

    store: ShardStore
    index: Index

    @property
    def name(self) -> str:
        """The place, for messages."""
        return self.store.name

    def split(self, name: str) -> list[ShardInfo]:
        """The shards of a split, in order."""
        try:
            return self.index.split(name)
        except ValueError as error:
            raise ValueError(f"data {self.name}: {error}") from error


__all__ = ["INDEX_NAME", "DataSet", "LocalStore", "ShardStore"]
