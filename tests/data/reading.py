"""Readers of packed folders, and what their batches hold."""

from itertools import islice

from data.batch import Batch
from data.read.shards import Reader

from .conftest import SIDE

BATCH, STREAMS = 16, 8


def reader(folder, **how) -> Reader:
    return Reader(**{"places": folder, "batch": BATCH, "resolution": SIDE, "streams": STREAMS, "block": 5} | how)


def taken(folder, num: int, nimg: int = 0, **how) -> list[Batch]:
    batches = reader(folder, **how).batches(nimg)
    out = list(islice(batches, num))
    batches.close()
    return out


def global_batches(folder, num: int, nimg: int = 0, world: int = 1, **how) -> list[list[tuple]]:
    """(index, key, pixels, label, text) of each picture of each global batch, put together over the ranks."""
    ranks = [taken(folder, num, nimg, rank=rank, world=world, **how) for rank in range(world)]
    return [sorted(row for part in parts for row in rows_of(part)) for parts in zip(*ranks, strict=True)]


def rows_of(batch: Batch) -> list[tuple]:
    assert len(batch) == len(batch.keys) == len(batch.cond) == len(batch.index)
    assert batch.index.tolist() == sorted(batch.index.tolist())
    cond = batch.cond
    label, text = cond.value("label"), cond.value("text")
    labels = label.tolist() if label is not None else [None] * len(batch)
    texts = [row.numpy().tobytes() for row in text] if text is not None else [None] * len(batch)
    pixels = [image.numpy().tobytes() for image in batch.image]
    return list(zip(batch.index.tolist(), batch.keys, pixels, labels, texts, strict=True))
