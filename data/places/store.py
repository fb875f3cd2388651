"""Where a data set lies, whatever the kind of place: its index, and its shards as open files.

`data.places.address` finds the store that a source names; `data.places.remote` holds the kinds that are not a folder here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from data.index import INDEX_NAME, Index, ShardInfo, check_files, load
from data.tar import open_shard


class Store(Protocol):
    """name is for messages; stores are small values that worker processes get a copy of."""

    @property
    def name(self) -> str: ...

    def index(self) -> Index:
        """The index of the whole folder."""

    def check(self, shards: list[ShardInfo]) -> None:
        """ValueError that names a shard which is not there; cheap."""

    def where(self, shard: ShardInfo) -> str:
        """A shard's place, for messages."""

    def open(self, shard: ShardInfo) -> BinaryIO:
        """The shard from its start; the caller closes it."""

    def expect(self, shards: Iterable[ShardInfo]) -> None:
        """These will be opened soon: may be fetched in the background."""

    def distrust(self, shard: ShardInfo) -> str:
        """The shard read was not the one of the index: forget any copy; what the user can do about it."""


@dataclass(frozen=True)
class LocalStore:
    """A folder on a file system."""

    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    def index(self) -> Index:
        return load(self.folder)

    def check(self, shards: list[ShardInfo]) -> None:
        check_files(self.folder, shards)

    def where(self, shard: ShardInfo) -> str:
        return str(self.folder / shard.name)

    def open(self, shard: ShardInfo) -> BinaryIO:
        return open_shard(self.folder / shard.name)

    def expect(self, shards: Iterable[ShardInfo]) -> None:
        """Nothing to do: the system reads ahead."""

    def distrust(self, shard: ShardInfo) -> str:
        return f"restore it, or if it was changed on purpose run: python -m data.index {self.folder} --update"


@dataclass(frozen=True)
class DataSet:
    """A store and what is used of it: `index` may hold fewer shards than the folder does."""

    store: Store
    index: Index

    @property
    def name(self) -> str:
        return self.store.name

    def split(self, name: str) -> list[ShardInfo]:
        """The shards of a split, in order."""
        try:
            return self.index.split(name)
        except ValueError as error:
            raise ValueError(f"data {self.name}: {error}") from error


__all__ = ["INDEX_NAME", "DataSet", "LocalStore", "Store"]
