"""Samples that cannot be used, damaged, executable, too large or too small, and shards that are damaged."""

import logging
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from data.index import load, report, save
from data.read.shards import Reader, read_split
from data.tar import stream

from .conftest import SIDE, make_tar, png, reindex
from .reading import BATCH, global_batches, taken


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
    how = {"places": folder, "batch": 4, "resolution": SIDE, "streams": 2, "workers": workers, "max_bad": 0}
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
        Reader(places=folder, batch=4, resolution=SIDE, streams=2)
    report(load(folder), folder)
    assert "sizes from 20 px" in capsys.readouterr().out
    report(load(mixed_sizes(tmp_path / "few", [1] + [30] * 39)), folder)
    assert "sizes from 30 px, 1 of them below (from 1 px)" in capsys.readouterr().out


def test_an_index_that_tells_only_the_least_side_means_all(tmp_path):
    folder = mixed_sizes(tmp_path / "d", [1, *[30] * 39])
    save(load(folder).model_copy(update={"sides": None}), folder)
    with pytest.raises(ValueError, match="pictures are 1 px, 24 px are needed; pack larger ones"):
        Reader(places=folder, batch=4, resolution=SIDE, streams=2)
