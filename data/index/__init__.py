"""`index.json`: what a folder of shards holds, to the byte. It alone reveals silent loss.

`python -m data.index FOLDER` makes it for existing tars; `data.pack` writes it last, so a folder with an index is
complete.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.line import say

INDEX_VERSION = 1
INDEX_NAME = "index.json"
MAX_SMALL = 0.05  # fraction of a data set that may be smaller than the requested resolution: readers replace these
TINY = 1e-9  # of probabilities: what rounding may add to their sum
NAMES_KEPT = 20  # names kept for each reason

Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A frozen pydantic model that accepts no extra fields and converts no types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class ShardInfo(Strict):
    """One shard: its name within the folder, split, number of samples, length and sha256."""

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
    """The frozen encoder of the `text.npy` members, whose captions were cut to `max_tokens`."""

    id: str
    dim: Annotated[int, Field(gt=0)]
    max_tokens: Annotated[int, Field(gt=0)]


class CaptionKind(Strict):
    """A kind of caption of pictures with several: the columns that it is made from, the probability that a pass draws it, and how
    many pictures have it."""

    columns: Annotated[list[str], Field(min_length=1)]
    probability: Annotated[float, Field(gt=0, le=1)]
    pictures: Count = 0

    @property
    def name(self) -> str:
        """The columns, as the option writes them."""
        return "+".join(self.columns)


class Skipped(Strict):
    """How many files or pictures share a reason, and the names of the first NAMES_KEPT."""

    num: Count
    names: list[str]


class Index(Strict):
    """What a folder of shards holds. The fields are listed in data/README.md."""

    version: int = INDEX_VERSION
    resize: str | None
    size: tuple[int, int] | None
    min_side: Count
    sides: dict[str, Count] | None = None
    channels: int = 3
    num_images: dict[str, int]
    shards: list[ShardInfo]
    classes: list[str] | None = None
    label_counts: dict[str, int] | None = None
    has_text: bool = False
    text_encoder: TextInfo | None = None
    maps: int = 0
    captions: list[CaptionKind] | None = None
    fingerprint: str
    skipped: dict[str, Skipped] = {}
    notes: dict[str, Skipped] = {}
    unread: dict[str, Skipped] = {}
    read_as: str = ""
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self):
        if self.num_images != count_images(self.shards):
            raise ValueError("num_images is not the sum over the shards")
        if self.captions is not None and not (self.captions and self.text_encoder):
            raise ValueError("captions are drawn among token features, of which text_encoder says nothing")
        if self.fingerprint != fingerprint(self.shards, self.captions):
            raise ValueError("fingerprint is not that of the shards")
        return self

    @property
    def num(self) -> int:
        """Number of samples in all splits, including those without a usable picture."""
        return sum(self.num_images.values())

    @property
    def num_good(self) -> int:
        """Number of usable pictures; for older indexes without `sides`, the number of samples."""
        return self.num if self.sides is None else sum(self.sides.values())

    def below(self, side: int) -> int:
        """How many pictures have a side shorter than `side`; for older indexes, which hold only the minimum, all or none."""
        if self.sides is None:
            return self.num if self.min_side < side else 0
        return sum(num for shorter, num in self.sides.items() if int(shorter) < side)

    def split(self, name: str) -> list[ShardInfo]:
        """The shards of a split, in order; ValueError if there are none."""
        shards = [shard for shard in self.shards if shard.split == name and shard.num]
        if not shards:
            raise ValueError(
                f"this data set has no split {name!r}, only {', '.join(self.num_images)}; "
                "name one of these, or pack again with --val 0.05"
            )
        return shards


def count_images(shards: list[ShardInfo]) -> dict[str, int]:
    """Number of samples of each split."""
    counts: Counter[str] = Counter()
    for shard in shards:
        counts[shard.split] += shard.num
    return dict(sorted(counts.items()))


def fingerprint(shards: list[ShardInfo], captions: list[CaptionKind] | None = None) -> str:
    """sha256 over split, number and sha256 of each shard, in order, and over the probabilities of their kinds of caption, if there
    are any: equal fingerprints mean the same shards, drawn from alike."""
    lines = [f"{s.split} {s.num} {s.sha256}\n" for s in shards]
    lines += [f"caption {kind.probability!r}\n" for kind in captions or ()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_of(source: str | Path) -> Path:
    """The folder of a data set, given as itself or as its index.json."""
    path = Path(source)
    return path.parent if path.name == INDEX_NAME else path


def load(source: str | Path) -> Index:
    """The index of a packed folder; ValueError with a fix if it is missing, edited or of another version."""
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
    return parse_index(path.read_bytes(), str(path), f"make it again with: python -m data.index {folder} --update")


def parse_index(content: bytes, where: str, fix: str) -> Index:
    """Parse the bytes of an index.json; ValueError with the faulty field and a fix."""
    try:
        version = json.loads(content).get("version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON; {fix}") from error
    if version != INDEX_VERSION:
        raise ValueError(
            f"{where} has version {version!r}, this program reads {INDEX_VERSION}; pack the pictures again"
        )
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "index"
        raise ValueError(f"{where}: {field}: {first['msg']}; {fix}") from error


def check_files(folder: Path, shards: list[ShardInfo]) -> None:
    """The cheap check when a data set is opened: every shard exists with its number of bytes."""
    refuse_changed(
        folder, [f"shard {folder / shard.name} {problem}" for shard in shards if (problem := _differs(folder, shard))]
    )


def refuse_changed(folder: Path, faults: list[str]) -> None:
    """Raise ValueError if any shard differs from the index, naming the first NAMES_KEPT."""
    if faults:
        suffix = f"; {len(faults) - NAMES_KEPT} more shards" if len(faults) > NAMES_KEPT else ""
        raise ValueError(
            f"{'; '.join(faults[:NAMES_KEPT])}{suffix}; restore what is lost, "
            f"or if it was changed on purpose run: python -m data.index {folder} --update"
        )


def _differs(folder: Path, shard: ShardInfo) -> str:
    path = folder / shard.name
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return "" if size == shard.bytes else f"has {size} bytes, {INDEX_NAME} says {shard.bytes}"


def save(index: Index, folder: Path) -> None:
    """Write index.json atomically."""
    part = folder / f"{INDEX_NAME}.part"
    newer = {"maps": index.maps, "captions": index.captions}
    without = {name for name, used in newer.items() if not used}  # as before there were any
    part.write_text(index.model_dump_json(indent=1, exclude=without) + "\n", encoding="utf-8")
    os.replace(part, folder / INDEX_NAME)


def report(index: Index, folder: Path) -> None:
    """Print what a folder of shards holds, in a few lines."""
    size = f"{index.size[1]} x {index.size[0]} px" if index.size else _sizes(index)
    repeated = index.num - index.num_good
    for split, num in index.num_images.items():
        shards = sum(shard.split == split for shard in index.shards)
        say(f"{folder}: {num:,} {'places' if repeated else 'pictures'} in {shards} {split} shards, {size}")
    if repeated:
        say(
            f"{index.num_good:,} pictures; at the other {repeated:,} places, told below, training reads the next good one"
        )
    if index.read_as:
        say(f"read as: {index.read_as}")
    if index.classes:
        say(f"classes: {len(index.classes)}")
    if index.maps:
        say(f"maps: {index.maps} channels")
    if index.text_encoder:
        say(f"captions: {index.text_encoder.id}, {index.text_encoder.dim} features a token")
    if index.captions:
        say(f"captions drawn: {_drawn(index.captions)}")
    for reason, skipped in index.skipped.items():
        say(f"skipped {skipped.num}: {reason}: {', '.join(skipped.names[:5])}")
    for note, packed in index.notes.items():
        say(f"packed {packed.num:,} {note}: {', '.join(packed.names[:5])}")
    for kind, unread in index.unread.items():
        say(f"not read {unread.num:,} {kind}: {', '.join(unread.names[:5])}")


def _drawn(captions: list[CaptionKind]) -> str:
    """The kinds of caption with their probabilities, in words."""
    told = [f"{kind.name} {kind.probability:g} ({kind.pictures:,} pictures)" for kind in captions]
    left = 1 - sum(kind.probability for kind in captions)
    return ", ".join([*told, f"none {left:.4g}"] if left > TINY else told)


def _sizes(index: Index) -> str:
    """The pictures' shorter sides in words: the minimum, and the side that all but MAX_SMALL of them reach."""
    typical = max(
        (int(side) for side in index.sides or () if index.below(int(side)) <= MAX_SMALL * index.num), default=0
    )
    num_below = index.below(typical)
    return (
        f"sizes from {typical} px, {num_below:,} of them below (from {index.min_side} px)"
        if num_below
        else f"sizes from {index.min_side} px"
    )
