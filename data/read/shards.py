"""The reader: packed shards to batches, at a position that is a function of (seed, images seen) alone.

V virtual *streams* read the shards. In epoch e the list of shards is permuted by (seed, e), and stream v reads every
V-th shard from v on; blocks of its samples are permuted by (seed, e, v, block). A global batch takes B/V consecutive
samples of each stream, in the order of streams. The sequence of global batches is therefore independent of ranks and
workers, which only divide it (`data.read.streams.own_samples`): by whole streams where their number divides that of the
streams, else by parts of them. While one block is handed out the next is read, a little for each sample. A sample that
does not decode is replaced by the next good one of its block. Of pictures with several captions each pass draws one, by
(seed, e, key): `data.read.captions`; `read_split` gives the first. In a mixture each data set has consecutive streams, in
proportion to its weight, and these read its shards as if they were all the streams.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, chain, islice, pairwise

import numpy as np
import torch

from data.batch import Batch, Cond
from data.index import Index, ShardInfo
from data.read.blocks import Block, Slot, first_good
from data.read.captions import Pass
from data.read.checks import check_content
from data.read.mixture import MixtureLike, Opened, as_mixture, largest_remainder
from data.read.order import find, permutation, shard_orders
from data.read.samples import BadDataError, Part, ShardReader
from data.read.streams import Shape, largest_divisor, own_samples
from data.text import pad_text


@dataclass(frozen=True, kw_only=True)
class Reader:
    """An endless sequence of batches of packed data; construction makes all checks that are cheap.

    places: a place (`data.places`), one with a weight, or several (`data.read.mixture`). batch: images of the global
    batch. resolution: the smallest side that is needed: pictures of one stored size come as stored (the device resizes
    them), others are cropped and downsampled to it. workers: loader processes per rank; 0 decodes in this process.
    """

    places: MixtureLike
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
    maps: bool = False
    original_sizes: bool = False
    max_bad: int = 100

    def __post_init__(self):
        check_content(
            self.opened,
            self.split,
            resolution=self.resolution,
            label=self.label,
            text_tokens=self.text_tokens,
            maps=self.maps,
            original_sizes=self.original_sizes,
        )
        check_shape(self)

    @cached_property
    def opened(self) -> Opened:
        """The data sets of `places`."""
        return Opened.of(self.places)

    @cached_property
    def index(self) -> Index:
        """The index of the data; for several data sets, what they have in common."""
        return self.opened.index

    @cached_property
    def owned(self) -> list[range]:
        """The streams of each data set."""
        ends = list(accumulate(self.opened.shares(self.streams, self.shape), initial=0))
        return [range(first, end) for first, end in pairwise(ends)]

    @property
    def shape(self) -> Shape:
        """The numbers that the streams have to fit."""
        shards = tuple(len(self.shards(index)) for index in range(len(self.opened.sets)))
        return Shape(streams=self.streams, batch=self.batch, world=self.world, shards=shards)

    def shards(self, number: int) -> list[ShardInfo]:
        """The shards of data set `number`, in order."""
        return self.opened.sets[number].split(self.split)

    def batches(self, nimg: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of each global batch from image `nimg` on, ordered by `Batch.index`."""
        if nimg < 0 or nimg % self.streams:
            raise ValueError(
                f"position {nimg} is not a multiple of streams={self.streams}; resume with the streams that saved it"
            )
        return self._batches(nimg)

    def _batches(self, nimg: int) -> Iterator[Batch]:
        from data.read.workers import merged

        parts = merged(self, nimg) if self.workers else self._parts(nimg, self.own())
        for part in parts:
            yield to_batch(part, self.text_tokens)

    def own(self, worker: int = 0) -> dict[int, range]:
        """The part of each stream's samples that one worker process of this rank reads."""
        return own_samples(
            batch=self.batch,
            streams=self.streams,
            rank=self.rank,
            world=self.world,
            worker=worker,
            workers=max(self.workers, 1),
        )

    def worker_parts(self, nimg: int, worker: int) -> Iterator[Part]:
        """Yield what one worker process of this rank contributes to each global batch."""
        return self._parts(nimg, self.own(worker))

    def _parts(self, nimg: int, own: dict[int, range]) -> Iterator[Part]:
        readers = shard_readers(self.opened, self)
        share = self.batch // self.streams
        slots = {stream: self._slots(readers[self._set_of(stream)], stream, nimg // self.streams) for stream in own}
        indices = [stream * share + k for stream, part in own.items() for k in part]
        while True:
            rows = []
            for stream, part in own.items():
                rows += [slot() for slot in list(islice(slots[stream], share))[part.start : part.stop]]
            yield Part(rows, [nimg + index for index in indices])
            nimg += self.batch

    def _set_of(self, stream: int) -> int:
        return next(index for index, owned in enumerate(self.owned) if stream in owned)

    def _slots(self, reader: ShardReader, stream: int, position: int) -> Iterator[Slot]:
        """The samples of one stream from `position` on, endlessly; each is decoded when it is called."""
        index = self._set_of(stream)
        owned, counts = self.owned[index], [shard.num for shard in self.shards(index)]
        epoch, position = find(position, counts, self.seed, stream - owned.start, len(owned))
        blocks = self._blocks(reader, stream, epoch, position // self.block)
        block, skip = next(blocks), position % self.block
        for next_block in blocks:
            samples, offsets = block.read(), range(skip, block.num)
            order = permutation(block.num, self.seed, block.epoch, stream, block.number)
            turn = Pass(seed=self.seed, epoch=block.epoch)
            for num_done, offset in enumerate(offsets, 1):
                next_block.read(next_block.num * num_done // len(offsets))
                yield partial(first_good, reader, samples, order, turn, offset)
            block, skip = next_block, 0

    def _blocks(self, reader: ShardReader, stream: int, epoch: int, number: int) -> Iterator[Block]:
        """The blocks of one stream from block `number` of `epoch` on, endlessly."""
        while True:
            shards, next_shards = self.epoch(stream, epoch), self.epoch(stream, epoch + 1)
            samples = reader.samples(shards, number * self.block, then=next_shards[0])
            for first in range(number * self.block, sum(shard.num for shard in shards), self.block):
                num = min(self.block, sum(shard.num for shard in shards) - first)
                yield Block(epoch=epoch, number=first // self.block, num=num, samples=samples)
            epoch, number = epoch + 1, 0

    def epoch(self, stream: int, epoch: int) -> list[ShardInfo]:
        """The shards that a stream reads in an epoch, in order."""
        index = self._set_of(stream)
        owned, shards = self.owned[index], self.shards(index)
        order = shard_orders(len(shards), self.seed, epoch, 1)[0]
        return [shards[k] for k in order[stream - owned.start :: len(owned)]]


@dataclass(frozen=True, kw_only=True)
class Finite:
    """Options of a `read_split`, apart from limit and rank."""

    split: str
    batch: int
    resolution: int
    label: bool
    text_tokens: int
    maps: bool
    original_sizes: bool
    max_bad: int


def read_split(
    places: MixtureLike,
    split: str = "val",
    *,
    batch: int,
    resolution: int,
    label: bool = False,
    text_tokens: int = 0,
    maps: bool = False,
    original_sizes: bool = False,
    limit: int = 0,
    max_bad: int = 100,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Each picture of a split once, in the order of the shards; the last batch of a data set may be smaller.

    limit: number of pictures in all, 0 for all of them; it is divided by the weights. Data sets that have the split
    come one after the other. With several ranks each gets every world-th picture of a (global) batch. A bad sample is
    replaced by the next good one, so the number of pictures is that of the index.
    """
    if batch < 1 or resolution < 1:
        raise ValueError(f"batch={batch}, resolution={resolution}; both must be at least 1")
    if limit < 0:
        raise ValueError(f"{limit} pictures of split {split}; give a number, or 0 for all of them")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; ranks count from 0")
    settings = Finite(
        split=split,
        batch=batch,
        resolution=resolution,
        label=label,
        text_tokens=text_tokens,
        maps=maps,
        original_sizes=original_sizes,
        max_bad=max_bad,
    )
    opened = Opened.of(as_mixture(places)).having(split)
    check_content(
        opened,
        split,
        resolution=resolution,
        label=label,
        text_tokens=text_tokens,
        maps=maps,
        original_sizes=original_sizes,
    )
    return _in_order(opened, settings, limit, rank, world)


def _in_order(opened: Opened, asked: Finite, limit: int, rank: int, world: int) -> Iterator[Batch]:
    limits = largest_remainder(opened.weights, limit) if limit else [None] * len(opened.sets)
    start = 0
    for reader, max_samples in zip(shard_readers(opened, asked), limits, strict=True):
        samples = islice(reader.samples(reader.data.split(asked.split)), max_samples)
        while block := list(islice(samples, asked.batch)):
            indices = range(rank, len(block), world)
            rows = [reader.first_good(chain(block[k:], block[:k])) for k in indices]
            if rows:
                yield to_batch(Part(rows, [start + k for k in indices]), asked.text_tokens)
            start += len(block)


def shard_readers(opened: Opened, asked: Reader | Finite) -> list[ShardReader]:
    """A `ShardReader` for each data set, for this process."""
    side = None if opened.stored_size else asked.resolution
    return [
        ShardReader(
            data=data,
            split=asked.split,
            side=side,
            label=asked.label,
            text=asked.text_tokens > 0,
            maps=asked.maps,
            original_sizes=asked.original_sizes,
            max_bad=asked.max_bad,
        )
        for data in opened.sets
    ]


def to_batch(part: Part, text_tokens: int) -> Batch:
    """Stack decoded samples as a `Batch`."""
    rows = part.rows
    label = [row.label for row in rows if row.label is not None]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    text, text_mask = pad_text(tokens, text_tokens) if tokens else (None, None)
    cond = Cond.of(
        torch.full((len(rows),), True),
        label=torch.tensor(label, dtype=torch.int64) if label else None,
        text=text,
        text_mask=text_mask,
    )
    if text_mask is not None:
        cond = cond.dropped(["text"], text_mask.any(dim=1))  # without a caption, as a request without a prompt
    maps = [torch.from_numpy(row.map) for row in rows if row.map is not None]
    cond = cond.given(maps=torch.stack(maps)) if maps else cond
    sizes = [row.original_size for row in rows if row.original_size is not None]
    cond = cond.given(original_size=torch.tensor(sizes, dtype=torch.int64)) if sizes else cond
    return Batch(
        image=torch.from_numpy(np.stack([row.image for row in rows])),
        cond=cond,
        index=torch.tensor(part.places, dtype=torch.int64),
        keys=tuple(row.key for row in rows),
    )


def check_shape(reader: Reader) -> None:
    """Raise ValueError unless streams and ranks divide the batch, and each data set has a shard for each of its streams."""
    streams, weights = reader.streams, reader.opened.weights
    for name in ("batch", "streams", "world", "block", "resolution"):
        if getattr(reader, name) < 1:
            raise ValueError(f"{name}={getattr(reader, name)} must be at least 1")
    if not 0 <= reader.rank < reader.world or reader.workers < 0:
        raise ValueError(f"rank {reader.rank} of {reader.world} with {reader.workers} workers; ranks count from 0")
    if reader.batch % reader.world:
        unit = math.lcm(reader.world, streams)
        raise ValueError(
            f"batch={reader.batch} cannot be shared by {reader.world} ranks; set batch={unit * -(-reader.batch // unit)}, "
            f"or start {largest_divisor(reader.batch, reader.world)} ranks"
        )
    if reader.batch % streams:
        fix = reader.shape.fix(weights) or "change one of them"
        raise ValueError(f"batch={reader.batch} is not a multiple of streams={streams}; {fix}")
    for index, owned in enumerate(reader.owned):
        if (num := len(reader.shards(index))) < len(owned):
            fix = reader.shape.fix(weights) or "give it less weight"
            raise ValueError(
                f"data {reader.opened.sets[index].name} has {num} {reader.split} shards, {len(owned)} streams are asked for; "
                f"pack again with --shards {len(owned)} or {fix}"
            )


__all__ = ["BadDataError", "Reader", "read_split"]
