"""The reader: packed shards in, batches out, at a position that is a function of (seed, images seen) alone.

V virtual *streams* carry the shards. In epoch e the shard list is permuted by (seed, e) and stream v takes every V-th
shard from v on; blocks of its samples are permuted by (seed, e, v, block). A global batch takes B/V consecutive
samples of each stream, in the order of streams. So the sequence of global batches does not know ranks or workers, who
merely share the streams out: worker w of W of rank r owns the streams congruent to r * W + w. A sample that does not
decode is replaced by the next good one of its block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from data.batch import Batch, Cond
from data.index import Index, ShardInfo, check_files, folder_of, load
from data.order import find, permutation, shard_orders
from data.read import BadDataError, Part, Row, ShardReader
from data.text import pad_text


@dataclass(frozen=True, kw_only=True)
class Reader:
    """An endless sequence of batches of a packed folder; building it checks everything that can be checked cheaply.

    batch is global, in images. resolution is the smallest side that is needed: pictures of one stored size come as
    stored (the device resizes them), others are cropped and downsampled to it. workers counts per rank; 0 decodes in
    this process.
    """

    source: str | Path
    batch: int
    resolution: int
    split: str = "train"
    seed: int = 0
    streams: int = 8
    rank: int = 0
    world: int = 1
    workers: int = 0
    block: int = 512
    label: bool = False
    text_tokens: int = 0
    max_bad: int = 100

    def __post_init__(self):
        check_files(self.folder, self.shards)
        _check_content(self)
        _check_shape(self)

    @cached_property
    def folder(self) -> Path:
        return folder_of(self.source)

    @cached_property
    def index(self) -> Index:
        return load(self.source)

    @cached_property
    def shards(self) -> list[ShardInfo]:
        return self.index.split(self.split)

    def batches(self, nimg: int = 0) -> Iterator[Batch]:
        """This rank's part of each global batch from image `nimg` on, ordered by `Batch.index`."""
        if nimg < 0 or nimg % self.streams:
            raise ValueError(
                f"position {nimg} is not a multiple of streams={self.streams}; resume with the streams that saved it"
            )
        return self._batches(nimg)

    def _batches(self, nimg: int) -> Iterator[Batch]:
        from data.workers import merged

        parts = merged(self, nimg) if self.workers else self._parts(nimg, self.rank, self.world)
        for part in parts:
            yield to_batch(part, self.text_tokens)

    def worker_parts(self, nimg: int, worker: int) -> Iterator[Part]:
        """What one worker process of this rank contributes to each global batch."""
        return self._parts(nimg, self.rank * self.workers + worker, self.world * self.workers)

    def _parts(self, nimg: int, owner: int, owners: int) -> Iterator[Part]:
        reader = shard_reader(self)
        own = range(owner, self.streams, owners)
        share = self.batch // self.streams
        rows = [self._stream(reader, stream, nimg // self.streams) for stream in own]
        places = [stream * share + k for stream in own for k in range(share)]
        while True:
            taken = chain.from_iterable(islice(stream, share) for stream in rows)
            yield Part(list(taken), [nimg + place for place in places])
            nimg += self.batch

    def _stream(self, reader: ShardReader, stream: int, position: int) -> Iterator[Row]:
        """The decoded samples of one stream from `position` on, for ever."""
        counts = [shard.num for shard in self.shards]
        epoch, position = find(position, counts, self.seed, stream, self.streams)
        while True:
            yield from self._epoch_rows(reader, stream, epoch, position)
            epoch, position = epoch + 1, 0

    def epoch(self, stream: int, epoch: int) -> list[ShardInfo]:
        """The shards that a stream reads in an epoch, in order."""
        order = shard_orders(len(self.shards), self.seed, epoch, 1)[0]
        return [self.shards[k] for k in order[stream :: self.streams]]

    def _epoch_rows(self, reader: ShardReader, stream: int, epoch: int, position: int) -> Iterator[Row]:
        number, skip = divmod(position, self.block)
        samples = reader.samples(self.epoch(stream, epoch), number * self.block)
        while block := list(islice(samples, self.block)):
            order = permutation(len(block), self.seed, epoch, stream, number)
            for place in range(skip, len(block)):
                yield reader.first_good(block[order[(place + k) % len(block)]] for k in range(len(block)))
            number, skip = number + 1, 0


def read_split(
    source: str | Path,
    split: str = "val",
    *,
    batch: int,
    resolution: int,
    label: bool = False,
    text_tokens: int = 0,
    limit: int = 0,
    max_bad: int = 100,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Each picture of a split once, in the order of the shards; the last batch may be smaller. limit 0: all.

    With several ranks each gets every world-th picture of a (global) batch. A bad sample is replaced by the next good
    one, so the number of pictures is that of the index.
    """
    reader = Reader(
        source=source, split=split, batch=batch, resolution=resolution, streams=1,
        label=label, text_tokens=text_tokens, max_bad=max_bad,
    )  # fmt: skip
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; ranks count from 0")
    return _in_order(reader, limit, rank, world)


def _in_order(reader: Reader, limit: int, rank: int, world: int) -> Iterator[Batch]:
    source = shard_reader(reader)
    samples = islice(source.samples(reader.shards), limit or None)
    start = 0
    while block := list(islice(samples, reader.batch)):
        own = range(rank, len(block), world)
        rows = [source.first_good(chain(block[k:], block[:k])) for k in own]
        if rows:
            yield to_batch(Part(rows, [start + k for k in own]), reader.text_tokens)
        start += len(block)


def shard_reader(reader: Reader) -> ShardReader:
    """What reads and decodes for `reader`, in this process."""
    stored = reader.index.size
    return ShardReader(
        folder=reader.folder,
        index=reader.index,
        split=reader.split,
        side=None if stored else reader.resolution,
        label=reader.label,
        text=reader.text_tokens > 0,
        max_bad=reader.max_bad,
    )


def to_batch(part: Part, text_tokens: int) -> Batch:
    """Decoded samples, stacked."""
    rows = part.rows
    label = [row.label for row in rows if row.label is not None]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    text, text_mask = pad_text(tokens, text_tokens) if tokens else (None, None)
    cond = Cond(
        keep=torch.full((len(rows),), bool(label or tokens)),
        label=torch.tensor(label, dtype=torch.int64) if label else None,
        text=text,
        text_mask=text_mask,
    )
    return Batch(
        image=torch.from_numpy(np.stack([row.image for row in rows])),
        cond=cond,
        index=torch.tensor(part.places, dtype=torch.int64),
        keys=tuple(row.key for row in rows),
    )


def _check_content(reader: Reader) -> None:
    """Does the data set hold what is asked for?"""
    index, what = reader.index, f"data {reader.folder}"
    if index.min_side < reader.resolution:
        raise ValueError(
            f"{what}: pictures are {index.min_side} px, {reader.resolution} px are needed; "
            f"pack larger ones with --size {reader.resolution}"
        )
    if reader.label and not index.classes:
        raise ValueError(f"{what} has no class labels; pack with --label-column, or train without label conditioning")
    if reader.text_tokens and not index.text_encoder:
        raise ValueError(
            f"{what} has no text features; pack with --text-encoder minilm, or train without text conditioning"
        )


def _check_shape(reader: Reader) -> None:
    """Can the streams be shared out evenly?"""
    streams, owners = reader.streams, reader.world * max(reader.workers, 1)
    for name in ("batch", "streams", "world", "block", "resolution"):
        if getattr(reader, name) < 1:
            raise ValueError(f"{name}={getattr(reader, name)} must be at least 1")
    if not 0 <= reader.rank < reader.world or reader.workers < 0:
        raise ValueError(f"rank {reader.rank} of {reader.world} with {reader.workers} workers; ranks count from 0")
    if streams % owners:
        raise ValueError(
            f"streams={streams} cannot be shared by {reader.world} ranks with {max(reader.workers, 1)} workers each; "
            f"set streams to a multiple of {owners}, or fewer workers"
        )
    if reader.batch % streams:
        raise ValueError(f"batch={reader.batch} is not a multiple of streams={streams}; change one of them")
    if (num := len(reader.shards)) < streams:
        raise ValueError(
            f"data {reader.folder} has {num} {reader.split} shards, {streams} streams are asked for; "
            f"pack again with --shards {streams} or set streams={num}"
        )


__all__ = ["BadDataError", "Reader", "read_split"]
