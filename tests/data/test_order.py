"""The reader's promise: the global batches are a function of (seed, images seen), whoever shares the work."""

import hashlib
import itertools
from collections import Counter

import pytest

from data.read.order import find, permutation, shard_orders
from data.read.shards import Reader
from data.read.streams import own_samples

from .conftest import SIDE, make_tar, png, reindex
from .reading import BATCH, STREAMS, global_batches, taken

SHAPES = [(1, 0), (1, 2), (2, 0), (2, 2), (4, 2)]  # (ranks, workers)
SHARING = [(1, 3), (16, 0), (4, 3), (2, 5), (8, 3)]  # those where owners have parts of streams


@pytest.fixture(scope="module")
def expected(packed):
    return global_batches(packed, 14, label=True, text_tokens=3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize(("world", "workers"), [*SHAPES, *SHARING[:2]])
def test_global_batches_do_not_depend_on_ranks_and_workers(packed, expected, world, workers):
    got = global_batches(packed, 14, world=world, workers=workers, label=True, text_tokens=3)
    assert got == expected
    assert [row[0] for batch in got for row in batch] == list(range(14 * BATCH))


@pytest.mark.parametrize(("world", "workers"), [*SHAPES, *SHARING, (3, 1), (6, 2), (12, 0), (24, 1), (24, 5)])
@pytest.mark.parametrize("streams", [1, 3, 8, 12])
def test_a_batch_is_shared_out_whole_and_evenly(world, workers, streams):
    batch, taken = 48, Counter()
    for rank in range(world):
        mine = Counter()
        for worker in range(max(workers, 1)):
            own = own_samples(
                batch=batch, streams=streams, rank=rank, world=world, worker=worker, workers=max(workers, 1)
            )
            mine.update((stream, k) for stream, part in own.items() for k in part)
            if streams % (world * max(workers, 1)) == 0:  # as every run before streams were shared
                first = rank * max(workers, 1) + worker
                assert own == {s: range(batch // streams) for s in range(first, streams, world * max(workers, 1))}
        assert mine.total() == batch // world
        taken += mine
    assert taken == Counter((stream, k) for stream in range(streams) for k in range(batch // streams))


def test_the_order_is_the_same_for_ever(tmp_path):
    """Of unequal shards with bad samples, over many epochs: runs that are resumed count on it."""
    bad = {(5, 3), (7, 0), (7, 1)}
    for s, num in enumerate([1, 4, 2, 3, 5, 12, 7, 9, 3, 3, 11]):
        make_tar(tmp_path / f"{s}.tar", [(f"{s}-{k}.png", b"junk" if (s, k) in bad else png()) for k in range(num)])
    reindex(tmp_path)
    for streams, block, batch, nimg, known in ORDERS:
        digest = hashlib.sha256()
        for part in taken(tmp_path, 40, nimg, batch=batch, streams=streams, block=block):
            digest.update(repr((part.index.tolist(), part.keys)).encode())
        assert digest.hexdigest()[:16] == known


ORDERS = [(4, 3, 8, 0, "c78206f0dc857bcf"), (4, 3, 8, 104, "f9f4fbda163f7770")]


@pytest.mark.parametrize("start", range(14))
def test_a_run_resumed_anywhere_equals_the_whole_one(packed, expected, start):
    world, workers = SHAPES[start % 3]
    got = global_batches(packed, 2, start * BATCH, world=world, workers=workers, label=True, text_tokens=3)
    assert got == (expected + global_batches(packed, 2, 14 * BATCH, label=True, text_tokens=3))[start : start + 2]


def test_a_run_may_go_on_with_another_batch_size(packed):
    whole = global_batches(packed, 8)
    rest = global_batches(packed, 2, 4 * BATCH, batch=2 * BATCH)
    for pair, large in zip((whole[4:6], whole[6:8]), rest, strict=True):
        assert sorted(row[1] for batch in pair for row in batch) == sorted(row[1] for row in large)


def test_every_key_once_per_epoch_and_in_another_order_each_time(packed):
    keys = [[row[1] for row in batch] for batch in global_batches(packed, 4 * 6)]
    epochs = [[key for batch in keys[6 * e : 6 * e + 6] for key in batch] for e in range(4)]
    assert all(len(set(epoch)) == 96 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_every_key_once_per_epoch_of_its_streams_with_unequal_shards(tmp_path):
    for s, num in enumerate([1, 4, 2, 3, 5]):
        make_tar(tmp_path / f"{s}.tar", [(f"{s}-{k}.png", png()) for k in range(num)])
    reindex(tmp_path)
    r = Reader(places=tmp_path, batch=2, resolution=SIDE, streams=2, block=3)
    for epoch in range(5):
        shards = [shard.name for stream in range(2) for shard in r.epoch(stream, epoch)]
        assert sorted(shards) == [f"{s}.tar" for s in range(5)]
    keys = [row[1] for batch in global_batches(tmp_path, 600, batch=2, streams=2, block=3) for row in batch]
    counts = Counter(keys)
    assert len(counts) == 15
    assert min(counts.values()) > 0.75 * max(counts.values())


def test_seeds_give_other_orders(packed):
    orders = {tuple(row[1] for batch in global_batches(packed, 6, seed=seed) for row in batch) for seed in range(4)}
    assert len(orders) == 4


def test_blocks_shuffle_within_a_stream(tmp_path):
    make_tar(tmp_path / "0.tar", [(f"{k:02d}.png", png()) for k in range(20)])
    reindex(tmp_path)
    order = [row[1] for batch in global_batches(tmp_path, 20, batch=1, streams=1, block=5) for row in batch]
    blocks = [order[k : k + 5] for k in range(0, 20, 5)]
    assert [sorted(block) for block in blocks] == [[f"{k + j:02d}" for j in range(5)] for k in range(0, 20, 5)]
    assert order != sorted(order)


def test_permutations_are_the_same_for_ever():
    assert permutation(8, 0, 0).tolist() == PERMUTATION_8_0_0
    assert shard_orders(8, 0, 3, 1).tolist() == [SHARD_ORDER_8_0_3]
    assert sorted(permutation(1000, 3, 1, 4).tolist()) == list(range(1000))
    assert shard_orders(6, 9, 0, 50)[17:20].tolist() == shard_orders(6, 9, 17, 3).tolist()
    assert {tuple(row) for row in shard_orders(3, 1, 0, 100).tolist()} == set(itertools.permutations(range(3)))


@pytest.mark.parametrize("stream", range(3))
def test_a_position_is_found_where_counting_finds_it(monkeypatch, stream):
    monkeypatch.setattr("data.read.order.WORDS_AT_ONCE", 40)
    counts, wanted = [5, 1, 2, 9, 4, 3, 1], []
    for epoch in range(12):
        own = shard_orders(7, 5, epoch, 1)[0][stream::3]
        wanted += [(epoch, k) for k in range(sum(counts[s] for s in own))]
    assert [find(position, counts, 5, stream, 3) for position in range(len(wanted))] == wanted


def test_a_far_position_is_found_at_once(packed):
    assert len(taken(packed, 1, nimg=STREAMS * 10**6)[0]) == BATCH


SHARD_ORDER_8_0_3 = [1, 7, 0, 5, 4, 6, 3, 2]
PERMUTATION_8_0_0 = [3, 2, 1, 6, 0, 7, 4, 5]


def test_large_splits_are_streamed_with_the_same_result(packed, expected, monkeypatch):
    monkeypatch.setattr("data.read.samples.KEEP_BYTES", 0)
    assert global_batches(packed, 14, label=True, text_tokens=3) == expected
