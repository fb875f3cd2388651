"""The reader's promise: the global batches are a function of (seed, images seen), whoever shares the work."""

import hashlib
import itertools
import logging
import multiprocessing
import os
import re
import shutil
import signal
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batch import Batch
from data.decode import to_array
from data.index import load, report, save
from data.read.order import find, permutation, shard_orders
from data.read.shards import Reader, read_split
from data.read.streams import own_samples
from data.tar import stream

from .conftest import SIDE, StandInEncoder, foreign_folder, make_tar, png, reindex

SHAPES = [(1, 0), (1, 2), (2, 0), (2, 2), (4, 2)]  # (ranks, workers)
SHARING = [(1, 3), (16, 0), (4, 3), (2, 5), (8, 3)]  # those where owners have parts of streams
BATCH, STREAMS = 16, 8


def reader(folder, **how) -> Reader:
    return Reader(**{"source": folder, "batch": BATCH, "resolution": SIDE, "streams": STREAMS, "block": 5} | how)


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
    r = Reader(source=tmp_path, batch=2, resolution=SIDE, streams=2, block=3)
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


def test_pictures_labels_and_text_are_those_that_were_packed(shapes, packed):
    import json

    rows = {r["file_name"][:-4]: r for r in map(json.loads, (shapes / "metadata.jsonl").read_text().splitlines())}
    classes = load(packed).classes
    encoder = StandInEncoder()
    for batch in taken(packed, 6, label=True, text_tokens=5):
        label, text = batch.cond.parts["label"], batch.cond.parts["text"]
        assert label.keep.all()
        assert text.keep.all()
        for k, key in enumerate(batch.keys):
            want = to_array(Image.open(shapes / f"{key}.png"))
            np.testing.assert_array_equal(batch.image[k].numpy(), want)
            assert classes[label.value[k]] == rows[key]["label"]
            tokens = torch.from_numpy(encoder.encode([rows[key]["text"]])[0]).float()
            num = len(tokens)
            torch.testing.assert_close(text.value[k, :num], tokens, rtol=0, atol=0)
            assert text.value[k, num:].abs().sum() == 0
            assert text.mask[k].tolist() == [True] * num + [False] * (5 - num)


def test_without_conditions_nothing_is_claimed(packed):
    (batch,) = taken(packed, 1)
    assert batch.cond.parts == {}
    assert batch.image.dtype == torch.uint8
    assert batch.index.dtype == torch.int64


def test_long_text_is_cut(packed):
    (full,), (cut,) = taken(packed, 1, text_tokens=8), taken(packed, 1, text_tokens=2)
    torch.testing.assert_close(full.cond.value("text")[:, :2], cut.cond.value("text"), rtol=0, atol=0)
    assert cut.cond.parts["text"].mask.all()


def test_one_stored_size_comes_as_stored_other_sizes_are_cropped_and_shrunk(packed, tmp_path):
    assert taken(packed, 1, resolution=8)[0].image.shape[-2:] == (SIDE, SIDE)
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (20, 0, 60, 40))  # blue in the middle square
    wide.save(tmp_path / "wide.png")
    members = [("a.png", (tmp_path / "wide.png").read_bytes()), ("b.png", png((0, 255, 0), (30, 33)))]
    make_tar(tmp_path / "d/0.tar", members)
    reindex(tmp_path / "d")
    batch = next(read_split(tmp_path / "d", "train", batch=2, resolution=20))
    assert batch.image.shape == (2, 3, 20, 20)
    assert batch.image[0].reshape(3, -1).T.unique(dim=0).tolist() == [[0, 0, 255]]
    with pytest.raises(ValueError, match="1 of 2 pictures are smaller than 31 px"):
        Reader(source=tmp_path / "d", batch=1, resolution=31, streams=1)


# ---- bad samples


def damaged_folder(tmp_path, packed, bad: dict[str, dict[str, bytes | None]]):
    """A copy of `packed` with members of some samples replaced (None: left out), and an index that knows."""
    before, num = load(packed), 0
    for path in sorted(packed.glob("*.tar")):
        members = []
        with path.open("rb") as file:
            for key, sample in stream(file, path.name):
                changed = sample | bad.get(key, {})
                num += key in bad
                members += [(f"{key}.{ext}", content) for ext, content in changed.items() if content is not None]
        make_tar(tmp_path / "d" / path.name, members)
    assert num == len(bad)
    from data.index.tally import index_folder

    index = index_folder(tmp_path / "d", before)
    keep = {"classes": before.classes, "label_counts": before.label_counts}
    save(index.model_copy(update=keep), tmp_path / "d")
    return tmp_path / "d"


BAD = {
    "000007": {"png": b"\x89PNG\r\n\x1a\nbroken"},
    "000011": {"png": None},
    "000023": {"cls": None},
    "000042": {"cls": b"six"},
    "000051": {"text.npy": None},
    "000066": {"text.npy": b"\x80\x04cposix\nsystem\n"},
    "000080": {"png": png(size=(SIDE + 1, SIDE))},
    "000090": {"cls": b"77"},
}


def test_bad_samples_are_replaced_counted_named_and_never_yielded(tmp_path, packed, caplog):
    folder = damaged_folder(tmp_path, packed, BAD)
    index = load(folder)
    save(index.model_copy(update={"size": (SIDE, SIDE)}), folder)
    how = {"label": True, "text_tokens": 3}
    with caplog.at_level(logging.WARNING, "data"):
        rows = [row for batch in global_batches(folder, 12, **how) for row in batch]
    whole = [row for batch in global_batches(packed, 12, **how) for row in batch]
    assert len(rows) == len(whole)
    for got, want in zip(rows, whole, strict=True):
        if want[1] in BAD:
            assert got[1] not in BAD
            assert got[0] == want[0]
        else:
            assert got == want  # positions of good samples do not move
    named = Counter(key for record in caplog.records for key in BAD if key in record.getMessage())
    assert named == Counter(BAD.keys())  # once each, though two epochs were read
    for world, workers in ((1, 2), (2, 0)):
        shared = global_batches(folder, 12, world=world, workers=workers, **how)
        assert [row for batch in shared for row in batch] == rows
    resumed = global_batches(folder, 3, 5 * BATCH, **how)
    assert [row for batch in resumed for row in batch] == rows[5 * BATCH : 8 * BATCH]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_are_an_error(tmp_path, packed, workers):
    folder = damaged_folder(tmp_path, packed, {f"{k:06d}": {"png": b"x"} for k in range(0, 96, 4)})
    with pytest.raises(ValueError, match=r"more than max_bad=3 bad samples \(0000") as error:
        taken(folder, 12, workers=workers, max_bad=3)
    assert "\n" not in str(error.value)
    assert len(taken(folder, 12, max_bad=24)) == 12


def test_a_block_with_nothing_good_is_an_error(tmp_path):
    make_tar(tmp_path / "0.tar", [*[(f"a{k}.png", b"junk") for k in range(5)], ("b.png", png())])
    reindex(tmp_path)
    with pytest.raises(ValueError, match="5 samples in a row are bad"):
        taken(tmp_path, 6, batch=1, streams=1)


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


def test_executable_members_are_never_opened(tmp_path):
    import gzip
    import pickle

    bomb = pickle.dumps(Bomb(tmp_path / "owned"))
    members = [("a.png", png())]
    members += [(f"a.{ext}", bomb) for ext in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "text.npy", "ten")]
    members += [("a.pyd.gz", gzip.compress(bomb)), ("a.json.gz", gzip.compress(bytes(1 << 20)))]
    make_tar(tmp_path / "d/0.tar", members)
    reindex(tmp_path / "d")
    assert [batch.keys for batch in read_split(tmp_path / "d", "train", batch=1, resolution=SIDE)] == [("a",)]
    assert not (tmp_path / "owned").exists()


def test_members_over_their_limit_are_not_read(tmp_path):
    make_tar(tmp_path / "0.tar", [("a.txt", bytes(1 << 20)), ("a.cls", b"1" * 100), ("b.png", png())])
    with (tmp_path / "0.tar").open("rb") as file:
        assert dict(stream(file, "0.tar")) == {"a": {}, "b": {"png": png()}}


# ---- refusals


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"world": 3}, "batch=16 cannot be shared by 3 ranks; set batch=24, or start 2 ranks"),
        ({"world": 32}, "batch=16 cannot be shared by 32 ranks; set batch=32, or start 16 ranks"),
        ({"batch": 12}, "batch=12 is not a multiple of streams=8; set streams=6"),
        ({"streams": 16}, "8 train shards, 16 streams are asked for; pack again with --shards 16 or set streams=8"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"streams": 0}, "streams=0 must be at least 1"),
        ({"resolution": 64}, "pictures are 24 px, 64 px are needed"),
        ({"split": "val"}, "no split 'val', only train"),
    ],
)
def test_conditions_are_checked_before_anything_starts(packed, how, says):
    with pytest.raises(ValueError, match=says):
        reader(packed, **how)


@pytest.mark.parametrize(
    ("how", "fix"),
    [
        ({"batch": 16}, "streams=4"),
        ({"batch": 15}, "streams=5"),
        ({"batch": 18, "world": 3}, "streams=3"),
        ({"batch": 7}, "streams=1"),
    ],
)
def test_the_fix_for_too_few_shards_works(tmp_path, how, fix):
    for s in range(5):
        make_tar(tmp_path / f"{s}.tar", [(f"{s}-{k}.png", png()) for k in range(4)])
    reindex(tmp_path)
    with pytest.raises(ValueError, match=f"set {fix}$") as told:
        reader(tmp_path, **how | {"streams": how["batch"]})
    streams, *more = re.findall(r"=(\d+)", str(told.value).rpartition("set ")[2])
    assert not more
    assert reader(tmp_path, **how | {"streams": int(streams)}).own()


def test_reading_is_spread_over_the_samples_of_a_block(tmp_path, monkeypatch):
    """After the first batch no batch reads many more samples than it gives, wherever blocks, shards and epochs begin."""
    for s in range(8):
        make_tar(tmp_path / f"{s}.tar", [(f"{s}-{k:03d}.png", png(size=(8, 8))) for k in range(64)])
    reindex(tmp_path)
    for keep in (0, 1 << 20):
        read = counted(monkeypatch, keep)
        batches, each = reader(tmp_path, batch=8, streams=4, block=32, resolution=8).batches(), []
        for _ in range(200):
            before = read[0]
            next(batches)
            each.append(read[0] - before)
        batches.close()
        assert each[0] >= 4 * 32
        assert max(each[1:]) <= (32 if keep else 16)  # today's way: 128 and 256
        assert sum(each) == (8 * 64 if keep else sum(each))


def counted(monkeypatch, keep: int) -> list[int]:
    """How many samples were taken out of tars, as one number that grows."""
    read = [0]

    def counting(*arguments):
        for sample in stream(*arguments):
            read[0] += 1
            yield sample

    monkeypatch.setattr("data.read.samples.KEEP_BYTES", keep)
    monkeypatch.setattr("data.read.samples.stream", counting)
    return read


def test_missing_labels_and_text_are_refused(tmp_path):
    folder = foreign_folder(tmp_path / "d")
    with pytest.raises(ValueError, match="has no class labels; pack with --label-column"):
        Reader(source=folder, batch=2, resolution=24, streams=2, label=True)
    with pytest.raises(ValueError, match="has no text features; pack with --text-encoder"):
        Reader(source=folder, batch=2, resolution=24, streams=2, text_tokens=8)


def test_a_position_between_batches_is_refused(packed):
    with pytest.raises(ValueError, match="position 5 is not a multiple of streams=8"):
        reader(packed).batches(5)


# ---- workers


def test_a_damaged_shard_is_a_one_line_error_from_a_worker_too(tmp_path, packed):
    shutil.copytree(packed, tmp_path / "d")
    path = tmp_path / "d/train-00003.tar"
    content = bytearray(path.read_bytes())
    content[-11_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00003\.tar") as error:
        taken(tmp_path / "d", 12, workers=2)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_killed_worker_ends_the_run(packed):
    others = set(multiprocessing.active_children())  # a reader of another test that is not collected yet
    batches = reader(packed, workers=2).batches()
    next(batches)
    victim = (set(multiprocessing.active_children()) - others).pop()
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=rf"a loader process died .*pid.*{victim.pid}"):
        list(islice(batches, 1000))


def test_worker_processes_end_with_the_iterator(packed):
    before = set(multiprocessing.active_children())
    batches = reader(packed, workers=2).batches()
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    assert set(multiprocessing.active_children()) <= before


# ---- finite reading


@pytest.mark.parametrize("world", [1, 3])
def test_read_split_gives_each_picture_once_in_order(packed, world):
    parts = [list(read_split(packed, "train", batch=20, resolution=SIDE, rank=r, world=world)) for r in range(world)]
    rows = sorted((i, key) for part in parts for b in part for i, key in zip(b.index.tolist(), b.keys, strict=True))
    assert [i for i, _ in rows] == list(range(96))
    order = []
    for path in sorted(packed.glob("*.tar")):
        with path.open("rb") as file:
            order += [key for key, _ in stream(file, path.name)]
    assert [key for _, key in rows] == order


def test_read_split_limit(packed):
    batches = list(read_split(packed, "train", batch=20, resolution=SIDE, limit=50))
    assert [len(batch) for batch in batches] == [20, 20, 10]


def test_two_data_sets_with_the_same_names_do_not_mix(tmp_path):
    for name, color in (("base", (255, 0, 0)), ("sr", (0, 0, 255))):
        make_tar(tmp_path / name / "000000.tar", [("a.png", png(color))])
        reindex(tmp_path / name)
    red, blue = (next(read_split(tmp_path / n, "train", batch=1, resolution=SIDE)) for n in ("base", "sr"))
    assert red.image[0, :, 0, 0].tolist() == [255, 0, 0]
    assert blue.image[0, :, 0, 0].tolist() == [0, 0, 255]


def test_large_splits_are_streamed_with_the_same_result(packed, expected, monkeypatch):
    monkeypatch.setattr("data.read.samples.KEEP_BYTES", 0)
    assert global_batches(packed, 14, label=True, text_tokens=3) == expected


# ---- a few pictures that are too small


def mixed_sizes(folder: Path, sides: list[int]) -> Path:
    """Two shards with pictures of these sides, alternating; picture k has the level 10 + k."""
    for shard in range(2):
        own = [k for k in range(len(sides)) if k % 2 == shard]
        make_tar(folder / f"{shard}.tar", [(f"{k:03d}.png", png((10 + k,) * 3, (sides[k],) * 2)) for k in own])
    reindex(folder)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_one_tiny_picture_does_not_make_tars_useless(tmp_path, caplog, workers):
    """It is passed over, told once, and costs nothing of `max_bad`."""
    folder = mixed_sizes(tmp_path / "d", [1, *[30 + k % 3 for k in range(39)]])
    index = load(folder)
    assert (index.size, index.min_side, index.sides) == (None, 1, {"1": 1, "30": 13, "31": 13, "32": 13})
    how = {"source": folder, "batch": 4, "resolution": SIDE, "streams": 2, "workers": workers, "max_bad": 0}
    batches = list(islice(Reader(**how).batches(), 20))
    assert {key for batch in batches for key in batch.keys} == {f"{k:03d}" for k in range(1, 40)}
    assert all(batch.image.shape[-2:] == (SIDE, SIDE) for batch in batches)
    (line,) = [record.message for record in caplog.records]
    assert "1 of 40 pictures are smaller than 24 px (the smallest 1 px); the next larger ones take their place" in line


def test_more_than_a_few_small_pictures_are_refused(tmp_path, capsys):
    folder = mixed_sizes(tmp_path / "d", [20] * 3 + [30] * 37)
    with pytest.raises(
        ValueError, match=r"3 of 40 pictures are smaller than 24 px .*20 px., at most 5% may be; pack them"
    ):
        Reader(source=folder, batch=4, resolution=SIDE, streams=2)
    report(load(folder), folder)
    assert "sizes from 20 px" in capsys.readouterr().out
    report(load(mixed_sizes(tmp_path / "few", [1] + [30] * 39)), folder)
    assert "sizes from 30 px, 1 of them below (from 1 px)" in capsys.readouterr().out


def test_an_index_that_tells_only_the_least_side_means_all(tmp_path):
    folder = mixed_sizes(tmp_path / "d", [1, *[30] * 39])
    save(load(folder).model_copy(update={"sides": None}), folder)
    with pytest.raises(ValueError, match="pictures are 1 px, 24 px are needed; pack larger ones"):
        Reader(source=folder, batch=4, resolution=SIDE, streams=2)
