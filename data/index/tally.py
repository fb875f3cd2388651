"""Count samples as they pass, and index whole folders of tars: an index states only what was counted here."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import progress
from data.decode import FORMATS, decode_captions, decode_label, image_size
from data.index import (
    INDEX_NAME,
    NAMES_KEPT,
    CaptionKind,
    Index,
    ShardInfo,
    Skipped,
    check_files,
    count_images,
    fingerprint,
    load,
    refuse_changed,
    report,
    save,
)
from data.index.items import DAMAGED, printable
from data.index.splits import split_of
from data.index.tree import look
from data.tar import (
    CAPTIONS_MEMBER,
    DOT_IN_KEY,
    IMAGE_MEMBERS,
    NOT_UNPACKED,
    Hashing,
    Sample,
    ShardError,
    check_shards,
    is_compressed,
    is_tar,
    open_shard,
    stream,
    without_picture,
)

APART = "with members that lie apart, not read together (data.pack does)"


@dataclass
class Counted:
    """Numbers of names by reason, with the first NAMES_KEPT names of each."""

    num: Counter = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """Count one name under a reason."""
        self.num[what] += 1
        names = self.names.setdefault(what, [])
        if len(names) < NAMES_KEPT:
            names.append(name)

    def join(self, other: "Counted") -> None:
        """Add the counts of another part of the data."""
        self.num += other.num
        for reason, names in other.names.items():
            kept = self.names.setdefault(reason, [])
            kept += names[: NAMES_KEPT - len(kept)]

    def fields(self) -> dict[str, Skipped]:
        """The counts in the form that the index stores."""
        return {reason: Skipped(num=num, names=self.names[reason]) for reason, num in sorted(self.num.items())}


@dataclass
class Tally:
    """Statistics of samples as they pass: sizes, labels, members that all of them have, samples without a class."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    sides: Counter = field(default_factory=Counter)  # pictures by shorter side
    labels: Counter = field(default_factory=Counter)
    captions: Counter = field(default_factory=Counter)  # pictures by the number of a kind of caption that they have
    common: set[str] | None = None
    skipped: Counted = field(default_factory=Counted)
    notes: Counted = field(default_factory=Counted)  # about samples that are kept
    unlabelled: Counted = field(default_factory=Counted)

    def join(self, other: "Tally") -> None:
        """Add the statistics of other samples."""
        self.sizes |= other.sizes
        self.sides += other.sides
        self.labels += other.labels
        self.captions += other.captions
        if other.common is not None:
            self.common = other.common if self.common is None else self.common & other.common
        for counts, added in (
            (self.skipped, other.skipped),
            (self.notes, other.notes),
            (self.unlabelled, other.unlabelled),
        ):
            counts.join(added)

    def skip(self, reason: str, name: str) -> None:
        """Count a picture that is left out."""
        self.skipped.add(reason, name)

    def add(self, sample: Sample, name: str = "") -> None:
        """Count a good sample; ValueError for a bad one."""
        image = next((sample[ext] for ext in IMAGE_MEMBERS if ext in sample), None)
        if image is None:
            raise ValueError(without_picture(sample))
        size = image_size(image, FORMATS)  # the formats that readers decode
        if "cls" in sample:
            self.labels[decode_label(sample["cls"])] += 1
        else:
            self.unlabelled.add("no label", name)
        if CAPTIONS_MEMBER in sample:
            self.captions.update(k for k, texts in enumerate(decode_captions(sample[CAPTIONS_MEMBER])) if texts)
        self.sizes.add(size)
        self.sides[min(size)] += 1
        self.common = set(sample) if self.common is None else self.common & set(sample)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) if all pictures share it."""
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None

    def index(
        self,
        shards: list[ShardInfo],
        *,
        classes: list[str] | None = None,
        captions: list[CaptionKind] | None = None,
        **fields: Any,
    ) -> Index:
        """The index of `shards`, all of whose samples have been counted here."""
        if not self.labels:
            classes = None
        else:
            self.skipped.join(self.unlabelled)  # if some have a class, those without cannot be used
            classes = classes or [str(label) for label in range(max(self.labels) + 1)]
        return Index(
            size=self.size,
            min_side=min(self.sides, default=0),
            sides={str(side): num for side, num in sorted(self.sides.items())},
            num_images=count_images(shards),
            shards=shards,
            classes=classes,
            label_counts={name: self.labels[k] for k, name in enumerate(classes)} if classes else None,
            has_text="txt" in (self.common or ()),
            captions=captions
            and [kind.model_copy(update={"pictures": self.captions[k]}) for k, kind in enumerate(captions)],
            fingerprint=fingerprint(shards, captions),
            skipped=self.skipped.fields(),
            notes=self.notes.fields(),
            **fields,
        )


def index_folder(folder: Path, old: Index | None = None, *, skip_damaged: bool = False, **fields: Any) -> Index:
    """Index existing tars by reading all of them; what they cannot tell is taken from `old`.

    skip_damaged: whether shards that cannot be read are left out; otherwise they are refused, all in one line.
    """
    paths = find_shards(folder)
    if not paths:
        raise ValueError(f"{folder} has no .tar; make shards with: python -m data.pack PICTURES {folder}")
    tally, shards, faults = Tally(), [], []
    for path in progress(paths, len(paths), "indexing", "shards"):
        try:
            shard, counts = _scan(folder, path)
        except ShardError as error:
            faults.append(error)
            continue
        shards.append(shard)
        tally.join(counts)
    if not skip_damaged:
        check_shards(faults, len(paths), skip="--skip-damaged")
    for fault in faults:
        tally.skip(DAMAGED, f"{Path(fault.name).relative_to(folder).as_posix()} ({fault.why})")
    if not tally.sizes:
        names = tally.skipped.names.get(DOT_IN_KEY, [])
        fix = (
            f"keys end at the first dot of a name, and there are dots in them ({names[0]}): pack them with python -m data.pack "
            f"{folder} DST --dotted-keys"
            if names
            else "its members should be key.jpg, key.png or key.webp"
        )
        raise ValueError(f"{folder} has no picture in {len(paths)} shards; {fix}")
    if old is not None:
        kept_fields = {
            "resize": old.resize,
            "channels": old.channels,
            "text_encoder": old.text_encoder,
            "maps": old.maps,
            "captions": old.captions,
            "settings": old.settings,
        }
        return tally.index(shards, classes=_still_enough(old.classes, tally), **(kept_fields | fields))
    return tally.index(shards, **({"resize": None} | fields))


def find_shards(folder: Path) -> list[Path]:
    """All tars below a folder, also compressed ones, in order; hidden ones and those being written are left out."""
    return [folder / path for path in look(folder).files if is_tar(path.name) or is_compressed(path.name)]


def _scan(folder: Path, path: Path) -> tuple[ShardInfo, Tally]:
    if is_compressed(path.name):
        raise ShardError(str(path), NOT_UNPACKED)
    name = path.relative_to(folder).as_posix()
    tally, keys, num = Tally(), set(), 0

    def too_large(member: str, why: str) -> None:
        tally.notes.add("with a member too large to be read", printable(f"{name}/{member} ({why})"))

    with open_shard(path) as raw:
        file = Hashing(raw)
        for key, sample in stream(file, str(path), too_large=too_large):
            num += 1
            if key in keys:
                tally.notes.add(APART, printable(f"{name}/{key}"))
            keys.add(key)
            _add(tally, printable(f"{name}/{key}"), sample)
        file.drain()
    shard = ShardInfo(name=name, split=split_of(name), num=num, bytes=file.num_bytes, sha256=file.sha256.hexdigest())
    return shard, tally


def _add(tally: Tally, name: str, sample: Sample) -> None:
    """Count a sample; a bad one stays in the shard's count, which fixes positions: readers replace it."""
    try:
        tally.add(sample, name)
    except ValueError as error:
        reason, _, detail = str(error).partition(": ")
        tally.skip(reason, f"{name} ({detail})" if detail else name)


def _still_enough(classes: list[str] | None, tally: Tally) -> list[str] | None:
    return classes if classes and max(tally.labels, default=0) < len(classes) else None


def verify(folder: Path, index: Index) -> None:
    """Read every shard and compare it with the index, to the byte."""
    check_files(folder, index.shards)
    faults = []
    for shard in progress(index.shards, len(index.shards), "verifying", "shards"):
        with (folder / shard.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                faults.append(f"shard {folder / shard.name} was changed (sha256 differs from {INDEX_NAME})")
    refuse_changed(folder, faults)


def main(
    folder: Annotated[Path, typer.Argument(help="folder of webdataset or img2dataset tars")],
    update: Annotated[
        bool, typer.Option("--update", help="the shards were changed on purpose: make the index anew")
    ] = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="leave out shards that cannot be read, not refuse all")
    ] = False,
) -> None:
    """Make index.json for tars that exist. Where there is one, check every shard against it."""
    if (folder / INDEX_NAME).is_file() and not update:
        index = load(folder)
        verify(folder, index)
    else:
        index = index_folder(folder, _old(folder), skip_damaged=skip_damaged)
        save(index, folder)
    report(index, folder)


def _old(folder: Path) -> Index | None:
    try:
        return load(folder)
    except ValueError:
        return None
