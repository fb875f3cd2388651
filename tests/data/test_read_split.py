"""read_split: a whole split once, in order."""

import pytest

from data.read.shards import read_split
from data.tar import stream

from .conftest import SIDE, make_tar, png, reindex


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


def test_fewer_than_no_pictures_are_refused_before_anything_is_read():
    """By a command that passes on what its user wrote, too."""
    with pytest.raises(ValueError, match=r"-3 pictures of split val; give a number, or 0 for all of them"):
        read_split("nowhere", batch=4, resolution=16, limit=-3)
