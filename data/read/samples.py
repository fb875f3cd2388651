"""Samples of packed shards: streamed, checked against the index, decoded; `data.read.shards` orders them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from data.alpha import to_pixels
from data.decode import decode_image, decode_label, decode_tokens
from data.images import center_crop, resize
from data.index import Index, ShardInfo
from data.places.store import DataSet, ShardStore
from data.read.captions import Features, Pass
from data.read.facts import FACTS_MEMBER, original_size
from data.tar import (
    CAPTIONS_MEMBER,
    FEATURES_MEMBER,
    IMAGE_MEMBERS,
    MAP_MEMBER,
    TEXT_MEMBER,
    Hashing,
    Sample,
    stream,
)

KEEP_BYTES = 256 << 20  # a split up to this size is read once and kept, still encoded, in each loader process
log = logging.getLogger("data")


class Keyed(NamedTuple):
    """A sample that is still encoded, with what its shard has of features of captions (if pictures have several)."""

    key: str
    sample: Sample
    features: Features


@dataclass(frozen=True, kw_only=True)
class Row:
    """One decoded sample."""

    key: str
    image: np.ndarray  # (c, h, w) uint8, premultiplied if c is 4
    label: int | None
    tokens: np.ndarray | None  # (tokens, dim) float16; no token where a picture has no caption, or none is drawn
    map: np.ndarray | None = None  # (c, h, w) uint8, of the size of the picture
    original_size: tuple[int, int] | None = None  # (height, width) in px, before it was packed


@dataclass(frozen=True)
class Part:
    """Rows of a global batch, with their positions in the run, in images."""

    rows: list[Row]
    places: list[int]


class Arriving:
    """The `num` samples of a shard that is kept: read gradually, handed out once the whole shard has been checked."""

    def __init__(self, num: int, samples: Iterator[Keyed]):
        self.num, self._samples, self._arrived = num, samples, list[Keyed]()

    def read(self, num: int) -> None:
        """Read up to the first `num` samples."""
        self._arrived += islice(self._samples, max(0, num - len(self._arrived)))

    def whole(self) -> list[Keyed]:
        """All samples; ValueError if the shard is not that of the index."""
        self._arrived += self._samples
        return self._arrived


@dataclass(kw_only=True)
class ShardReader:
    """Reads the shards of one data set; keeps small splits in memory and names each bad sample once."""

    data: DataSet
    split: str
    side: int | None  # None: as stored; else center-cropped and resized to side x side px
    label: bool
    text: bool
    max_bad: int
    maps: bool = False
    original_sizes: bool = False
    bad: set[str] = field(default_factory=set)
    _kept: dict[str, "Arriving"] | None = None

    def __post_init__(self):
        if sum(shard.bytes for shard in self.index.split(self.split)) <= KEEP_BYTES:
            self._kept = {}

    @property
    def store(self) -> ShardStore:
        """The store of the data set."""
        return self.data.store

    @property
    def index(self) -> Index:
        """The index of the data set."""
        return self.data.index

    def samples(self, shards: list[ShardInfo], skip: int = 0, then: ShardInfo | None = None) -> Iterator[Keyed]:
        """The samples of `shards` in order, without the first `skip`; shards that are skipped whole are not opened.

        `then` is the shard that follows all of them. While one shard is handed out, the next is announced to the store;
        one that will be kept is read during the second half of that time, a little for each sample.
        """
        next_shards = [*shards[1:], *([then] if then else [None])]
        for shard, next_shard in zip(shards, next_shards, strict=True):
            if skip >= shard.num:
                skip -= shard.num
                continue
            prefetch = self._coming(next_shard) if next_shard else None
            for index, sample in enumerate(self._shard(shard)):
                if index >= skip:
                    if prefetch:
                        prefetch.read(prefetch.num * max(0, 2 * (index + 1) - shard.num - skip) // (shard.num - skip))
                    yield sample
            skip = 0

    def _coming(self, shard: ShardInfo) -> "Arriving | None":
        """Announce the next shard to the store; returns it if it is kept, to be read gradually."""
        if self._kept is None:
            self.store.expect([shard])
            return None
        if shard.name not in self._kept:
            self.store.expect([shard])
            self._kept[shard.name] = Arriving(shard.num, self._stream(shard))
        return self._kept[shard.name]

    def _shard(self, shard: ShardInfo) -> Iterator[Keyed]:
        if self._kept is None:
            return self._stream(shard)
        if shard.name not in self._kept:
            self._kept[shard.name] = Arriving(shard.num, self._stream(shard))
        return iter(self._kept[shard.name].whole())

    def _stream(self, shard: ShardInfo) -> Iterator[Keyed]:
        """The samples of a shard; ValueError at its end unless it was that of the index, to the byte."""
        try:
            yield from self._checked(shard)
        except ValueError as error:
            raise ValueError(f"{error}; {fix}" if (fix := self.store.distrust(shard)) else str(error)) from error

    def _checked(self, shard: ShardInfo) -> Iterator[Keyed]:
        num, label, features = 0, self.store.where(shard), Features()
        with self.store.open(shard) as raw:
            file = Hashing(raw)
            for key, sample in stream(file, label, self._wants):
                num += 1
                if self.text and self.index.captions and self.index.text_encoder:
                    features.read(sample, self.index.text_encoder.dim)
                if num <= shard.num:
                    yield Keyed(key, sample, features)
            file.drain()
        if (num, file.num_bytes, file.sha256.hexdigest()) != (shard.num, shard.bytes, shard.sha256):
            raise ValueError(
                f"shard {label} is not what the index says: {num} of {shard.num} samples, "
                f"{file.num_bytes} of {shard.bytes} bytes, and another sha256"
            )

    def _wants(self, extension: str) -> bool:
        return (
            extension in IMAGE_MEMBERS
            or (self.label and extension == "cls")
            or (self.text and extension in self._text_members)
            or (self.maps and extension == MAP_MEMBER)
            or (self.original_sizes and extension == FACTS_MEMBER)
        )

    @property
    def _text_members(self) -> tuple[str, ...]:
        return (CAPTIONS_MEMBER, FEATURES_MEMBER) if self.index.captions else (TEXT_MEMBER,)

    def first_good(self, candidates: Iterator[Keyed], turn: Pass | None = None) -> Row:
        """Decode the first good one of `candidates`; bad ones before it are counted and named.

        turn: the pass that draws among several captions; None for the first one.
        """
        num_bad = 0
        for key, sample, features in candidates:
            try:
                return self._decoded(key, sample, features, turn)
            except ValueError as error:
                num_bad += 1
                if not (isinstance(error, TooSmallError) and self.index.sides):  # expected: the index counts them
                    self._count_bad(key, error)
        raise ValueError(f"data {self.data.name}: {num_bad} samples in a row are bad; pack the pictures again")

    def _count_bad(self, key: str, error: ValueError) -> None:
        if key in self.bad:
            return
        self.bad.add(key)
        log.warning("bad sample %s replaced by the next one: %s", key, error)
        if len(self.bad) > self.max_bad:
            names = ", ".join(sorted(self.bad)[:5])
            raise BadDataError(
                f"data {self.data.name}: more than max_bad={self.max_bad} bad samples ({names}); pack them again"
            )

    def _decoded(self, key: str, sample: Sample, features: Features, turn: Pass | None) -> Row:
        content = next((sample[ext] for ext in IMAGE_MEMBERS if ext in sample), None)
        missing = "a picture" if content is None else self._missing(sample)
        if content is None or missing:
            raise ValueError(f"half a sample, without {missing}")
        image = decode_image(content, alpha=self.index.channels == 4, shrink_to=0 if self.maps else self.side or 0)
        size = image.size
        if self.side is not None:
            if min(image.size) < self.side:
                raise TooSmallError(f"{image.width} x {image.height} px, smaller than the index says")
            image = resize(center_crop(image), (self.side, self.side))
        elif self.index.size != (image.height, image.width):
            raise ValueError(f"{image.width} x {image.height} px, not as the index says")
        return Row(
            key=key,
            image=to_pixels(image),
            label=self._label(sample["cls"]) if self.label else None,
            tokens=self._tokens(key, sample, features, turn) if self.text else None,
            map=self._map(sample[MAP_MEMBER], size) if self.maps else None,
            original_size=original_size(sample[FACTS_MEMBER]) if self.original_sizes else None,
        )

    def _tokens(self, key: str, sample: Sample, features: Features, turn: Pass | None) -> np.ndarray | None:
        if (encoder := self.index.text_encoder) is None:
            return None
        if self.index.captions is None:
            return decode_tokens(sample[TEXT_MEMBER], encoder.dim)
        tokens = features.of(key, sample, self.index.captions, turn)
        return np.zeros((0, encoder.dim), np.float16) if tokens is None else tokens

    def _map(self, content: bytes, size: tuple[int, int]) -> np.ndarray:
        """The map of a picture that was stored as (width, height) `size`, cropped and resized like it."""
        image = decode_image(content, formats=("PNG",))
        if image.size != size:
            raise ValueError(f"its map is {image.width} x {image.height} px, the picture {size[0]} x {size[1]}")
        if self.side is not None:
            image = resize(center_crop(image), (self.side, self.side))
        return to_pixels(image)[: self.index.maps]

    def _missing(self, sample: Sample) -> str | None:
        texts = [(name, self.text) for name in self._text_members]
        required = (("cls", self.label), *texts, (MAP_MEMBER, self.maps), (FACTS_MEMBER, self.original_sizes))
        return next((name for name, is_required in required if is_required and name not in sample), None)

    def _label(self, content: bytes) -> int:
        label, classes = decode_label(content), self.index.classes or []
        if label >= len(classes):
            raise ValueError(f"label {label}, but there are {len(classes)} classes")
        return label


class TooSmallError(ValueError):
    """A picture smaller than the requested resolution."""


class BadDataError(ValueError):
    """More bad samples than `max_bad`."""
