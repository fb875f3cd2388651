"""Looking at samples as they pass, and at whole folders of tars: what an index says is what was seen here."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import progress
from data.decode import FORMATS, decode_label, image_size
from data.files import look
from data.index import (
    INDEX_NAME,
    NAMES_KEPT,
    Index,
    ShardInfo,
    Skipped,
    check_files,
    count_images,
    fingerprint,
    load,
    report,
    save,
)
from data.splits import split_of
from data.tar import IMAGE_MEMBERS, Hashing, Sample, open_shard, stream


@dataclass
class Counted:
    """Numbers of names by what is said about them; of the names only the first few."""

    num: Counter = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        self.num[what] += 1
        names = self.names.setdefault(what, [])
        if len(names) < NAMES_KEPT:
            names.append(name)

    def fields(self) -> dict[str, Skipped]:
        return {what: Skipped(num=num, names=self.names[what]) for what, num in sorted(self.num.items())}


@dataclass
class Tally:
    """What is learned from samples as they pass: sizes, labels, which members all of them have."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    sides: Counter = field(default_factory=Counter)  # shorter ones
    labels: Counter = field(default_factory=Counter)
    common: set[str] | None = None
    skipped: Counted = field(default_factory=Counted)
    notes: Counted = field(default_factory=Counted)  # about samples that are packed

    def skip(self, reason: str, name: str) -> None:
        self.skipped.add(reason, name)

    def add(self, sample: Sample) -> None:
        """Count a good sample; ValueError for one that is not."""
        image = next((sample[ext] for ext in IMAGE_MEMBERS if ext in sample), None)
        if image is None:
            raise ValueError("no picture")
        size = image_size(image, FORMATS)  # what readers decode
        if "cls" in sample:
            self.labels[decode_label(sample["cls"])] += 1
        self.sizes.add(size)
        self.sides[min(size)] += 1
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
            min_side=min(self.sides, default=0),
            sides={str(side): num for side, num in sorted(self.sides.items())},
            num_images=count_images(shards),
            shards=shards,
            classes=classes,
            label_counts={name: self.labels[k] for k, name in enumerate(classes)} if classes else None,
            has_text="txt" in common,
            fingerprint=fingerprint(shards),
            skipped=self.skipped.fields(),
            notes=self.notes.fields(),
            **fields,
        )


def index_folder(folder: Path, old: Index | None = None, **fields: Any) -> Index:
    """The index of tars that exist, made by reading all of them; what they cannot tell is taken from `old`."""
    paths = find_tars(folder)
    if not paths:
        raise ValueError(f"{folder} has no .tar; make shards with: python -m data.pack PICTURES {folder}")
    tally = Tally()
    shards = [_scan(folder, path, tally) for path in progress(paths, len(paths), "indexing", "shards")]
    if not tally.sizes:
        raise ValueError(
            f"{folder} has no picture in {len(paths)} shards; its members should be key.jpg, key.png or key.webp"
        )
    if old is not None:
        carried = {"resize": old.resize, "text_encoder": old.text_encoder, "settings": old.settings}
        return tally.index(shards, classes=_still_enough(old.classes, tally), **(carried | fields))
    return tally.index(shards, **({"resize": None} | fields))


def find_tars(folder: Path) -> list[Path]:
    """All tars below a folder, in order, without hidden ones and those that are being written."""
    return [folder / path for path in look(folder).files if path.suffix == ".tar"]


def _scan(folder: Path, path: Path, tally: Tally) -> ShardInfo:
    name = path.relative_to(folder).as_posix()
    num = 0
    with open_shard(path) as raw:
        file = Hashing(raw)
        for key, sample in stream(file, str(path)):
            num += 1
            _add(tally, f"{name}/{key}".encode("utf-8", "backslashreplace").decode(), sample)
        file.drain()
    return ShardInfo(name=name, split=split_of(name), num=num, bytes=file.num_bytes, sha256=file.sha256.hexdigest())


def _add(tally: Tally, name: str, sample: Sample) -> None:
    """A sample that is no good stays in the count, for positions: readers replace it."""
    try:
        tally.add(sample)
    except ValueError as error:
        reason, _, detail = str(error).partition(": ")
        tally.skip(reason, f"{name} ({detail})" if detail else name)


def _still_enough(classes: list[str] | None, tally: Tally) -> list[str] | None:
    return classes if classes and max(tally.labels, default=0) < len(classes) else None


def verify(folder: Path, index: Index) -> None:
    """Read every shard and compare it with the index to the byte."""
    check_files(folder, index.shards)
    for shard in progress(index.shards, len(index.shards), "verifying", "shards"):
        with (folder / shard.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                raise ValueError(
                    f"shard {folder / shard.name} was changed (sha256 differs from {INDEX_NAME}); "
                    f"restore it, or if it was changed on purpose run: python -m data.index {folder} --update"
                )


def main(
    folder: Annotated[Path, typer.Argument(help="folder of webdataset or img2dataset tars")],
    update: Annotated[
        bool, typer.Option("--update", help="the shards were changed on purpose: make the index anew")
    ] = False,
) -> None:
    """Make index.json for tars that exist. Where there is one, check every shard against it."""
    if (folder / INDEX_NAME).is_file() and not update:
        index = load(folder)
        verify(folder, index)
    else:
        index = index_folder(folder, _old(folder))
        save(index, folder)
    report(index, folder)


def _old(folder: Path) -> Index | None:
    try:
        return load(folder)
    except ValueError:
        return None
