"""What batches hold: pictures, labels, text; what a reader refuses; its worker processes."""

import multiprocessing
import os
import re
import signal
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from data.alpha import to_pixels
from data.index import load
from data.read.shards import Reader, read_split
from data.tar import stream

from .conftest import SIDE, StandInEncoder, foreign_folder, make_tar, png, reindex
from .reading import reader, taken


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
            want = to_pixels(Image.open(shapes / f"{key}.png"))
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
        Reader(places=tmp_path / "d", batch=1, resolution=31, streams=1)


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
        Reader(places=folder, batch=2, resolution=24, streams=2, label=True)
    with pytest.raises(ValueError, match="has no text features; pack with --text-encoder"):
        Reader(places=folder, batch=2, resolution=24, streams=2, text_tokens=8)


def test_a_position_between_batches_is_refused(packed):
    with pytest.raises(ValueError, match="position 5 is not a multiple of streams=8"):
        reader(packed).batches(5)


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
