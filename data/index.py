"""`index.json`: what lies in a folder of shards, to the byte. The only thing that notices silent loss.

`python -m data.index FOLDER` makes it for tars that exist; `data.pack` writes it last, so a folder with an index is whole.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.decode import decode_label, image_size
from data.tar import IMAGE_MEMBERS, TEXT_MEMBER, Sample

INDEX_VERSION = 1
INDEX_NAME = "index.json"
NAMES_KEPT = 20  # of each kind of skipped picture

Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardInfo(Strict):
    name: str
    split: str
    num: Count
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _stays_inside(self):
        parts = Path(self.name).parts
        if not parts or Path(self.name).is_absolute() or ".." in parts or "\\" in self.name or "\0" in self.name:
            raise ValueError(f"shard name {self.name!r} leaves the folder")
        return self


class TextInfo(Strict):
    """Which frozen encoder made the `text.npy` members."""

    id: str
    dim: Annotated[int, Field(gt=0)]
    max_tokens: Annotated[int, Field(gt=0)]


class Skipped(Strict):
    num: Count
    names: list[str]


class Index(Strict):
    """See data/README.md for the fields."""

    version: int = INDEX_VERSION
    resize: str | None
    size: tuple[int, int] | None
    min_side: Count
    channels: int = 3
    num_images: dict[str, int]
    shards: list[ShardInfo]
    classes: list[str] | None = None
    label_counts: dict[str, int] | None = None
    has_text: bool = False
    text_encoder: TextInfo | None = None
    fingerprint: str
    skipped: dict[str, Skipped] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self):
        if self.num_images != count_images(self.shards):
            raise ValueError("num_images is not the sum over the shards")
        if self.fingerprint != fingerprint(self.shards):
            raise ValueError("fingerprint is not that of the shards")
        return self

    def split(self, name: str) -> list[ShardInfo]:
        """The shards of a split, in order."""
        shards = [shard for shard in self.shards if shard.split == name and shard.num]
        if not shards:
            raise ValueError(
                f"this data set has no split {name!r}, only {', '.join(self.num_images)}; "
                "name one of these, or pack again with --val 0.05"
            )
        return shards


def count_images(shards: list[ShardInfo]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for shard in shards:
        counts[shard.split] += shard.num
    return dict(sorted(counts.items()))


def fingerprint(shards: list[ShardInfo]) -> str:
    """sha256 over the sha256 of each shard, in order: two data sets with the same one are the same pictures."""
    return hashlib.sha256("".join(f"{s.split} {s.num} {s.sha256}\n" for s in shards).encode()).hexdigest()


def folder_of(source: str | Path) -> Path:
    """The folder of a data set, named by itself or by its index.json."""
    path = Path(source)
    return path.parent if path.name == INDEX_NAME else path


def load(source: str | Path) -> Index:
    """The index of a packed folder. Missing, foreign, edited or of another version: a ValueError that says what to do."""
    folder = folder_of(source)
    if not folder.is_dir():
        raise ValueError(f"data {folder} does not exist; make it with: python -m data.pack PICTURES {folder}")
    path = folder / INDEX_NAME
    if not path.is_file():
        if any(folder.glob("**/*.tar")):
            raise ValueError(
                f"data {folder} has shards but no {INDEX_NAME}; make it with: python -m data.index {folder}"
            )
        raise ValueError(f"data {folder} has no shards; make them with: python -m data.pack PICTURES {folder}")
    content = path.read_bytes()
    try:
        version = json.loads(content).get("version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON; make it again with: python -m data.index {folder} --update") from error
    if version != INDEX_VERSION:
        raise ValueError(f"{path} has version {version!r}, this program reads {INDEX_VERSION}; pack the pictures again")
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "index"
        raise ValueError(
            f"{path}: {where}: {first['msg']}; make it again with: python -m data.index {folder} --update"
        ) from error


def check_files(folder: Path, shards: list[ShardInfo]) -> None:
    """The cheap check when a data set is opened: every shard is there with its number of bytes."""
    for shard in shards:
        path = folder / shard.name
        if not path.is_file():
            raise ValueError(f"shard {path} is missing; restore it, or run: python -m data.index {folder} --update")
        if (size := path.stat().st_size) != shard.bytes:
            raise ValueError(
                f"shard {path} has {size} bytes, {INDEX_NAME} says {shard.bytes}; "
                f"restore it, or if it was changed on purpose run: python -m data.index {folder} --update"
            )


def save(index: Index, folder: Path) -> None:
    """Write index.json in one move."""
    part = folder / f"{INDEX_NAME}.part"
    part.write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / INDEX_NAME)


@dataclass
class Tally:
    """What is learned from samples as they pass: sizes, labels, which members all of them have."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    labels: Counter = field(default_factory=Counter)
    common: set[str] | None = None
    skipped: dict[str, list[str]] = field(default_factory=dict)
    skipped_num: Counter = field(default_factory=Counter)

    def skip(self, reason: str, name: str) -> None:
        self.skipped_num[reason] += 1
        names = self.skipped.setdefault(reason, [])
        if len(names) < NAMES_KEPT:
            names.append(name)

    def add(self, sample: Sample) -> None:
        """Count a good sample; ValueError for one that is not."""
        image = next((sample[ext] for ext in IMAGE_MEMBERS if ext in sample), None)
        if image is None:
            raise ValueError("no picture")
        size = image_size(image)
        if "cls" in sample:
            self.labels[decode_label(sample["cls"])] += 1
        self.sizes.add(size)
        self.common = set(sample) if self.common is None else self.common & set(sample)

    @property
    def size(self) -> tuple[int, int] | None:
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None

    def index(self, shards: list[ShardInfo], *, classes: list[str] | None = None, **fields: Any) -> Index:
        """The index of `shards`, whose samples all passed through here."""
        common = self.common or set()
        if "cls" not in common:
            classes = None
        elif classes is None:
            classes = [str(label) for label in range(max(self.labels) + 1)]
        return Index(
            size=self.size,
            min_side=min((min(size) for size in self.sizes), default=0),
            num_images=count_images(shards),
            shards=shards,
            classes=classes,
            label_counts={name: self.labels[k] for k, name in enumerate(classes)} if classes else None,
            has_text="txt" in common,
            fingerprint=fingerprint(shards),
            skipped={why: Skipped(num=n, names=self.skipped[why]) for why, n in sorted(self.skipped_num.items())},
            **fields,
        )


__all__ = ["TEXT_MEMBER", "Index", "ShardInfo", "Tally", "TextInfo", "check_files", "load", "save"]
