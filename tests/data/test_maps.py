"""Maps: packed beside their pictures, read with them, refused where they do not fit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.index import load
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import Reader, read_split
from data.shapes import write_folder
from tests.gray_maps import write_maps

from .conftest import make_tar, png


@pytest.fixture
def pictures(tmp_path):
    return write_folder(tmp_path / "pictures", 12, 16)


def packed(pictures, folder, maps, **settings):
    return pack(pictures, folder, PackSettings(size=16, shards=4, maps=str(maps), **settings), workers=0)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_map_comes_with_its_picture(pictures, tmp_path, mode, channels):
    maps = write_maps(tmp_path / "maps", pictures, mode)
    index = packed(pictures, tmp_path / "shards", maps, val=0.3)
    assert index.maps == load(tmp_path / "shards").maps == channels
    (batch,) = read_split(str(tmp_path / "shards"), "val", batch=64, resolution=16, maps=True)
    part = batch.cond.parts["maps"]
    assert (part.value.dtype, part.value.shape) == (torch.uint8, (len(batch), channels, 16, 16))
    assert part.keep.all()
    for image, map_ in zip(batch.image, part.value, strict=True):  # of this very picture
        gray = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(map_[0].numpy(), gray)


def test_a_map_is_cropped_and_shrunk_like_its_picture(tmp_path):
    """Of a wide picture the middle is kept, of its map, too; and both again where the reader resizes."""
    for name in ("pictures", "maps"):
        (tmp_path / name).mkdir()
        for k in range(6):
            ramp = np.tile(np.linspace(0, 250, 48, dtype=np.uint8), (24 + k, 1))
            Image.fromarray(np.roll(ramp, 5 * k, axis=1)).convert("RGB").save(tmp_path / name / f"{k}.png")
    pack(
        tmp_path / "pictures",
        tmp_path / "shards",
        PackSettings(size=0, source="plain", maps=str(tmp_path / "maps")),
        workers=0,
    )
    for batch in read_split(str(tmp_path / "shards"), "train", batch=6, resolution=8, maps=True):
        assert torch.equal(batch.cond.value("maps"), batch.image)


def test_training_batches_have_them_when_they_are_asked_for(pictures, tmp_path):
    packed(pictures, tmp_path / "shards", write_maps(tmp_path / "maps", pictures))
    with_them = next(Reader(places=str(tmp_path / "shards"), batch=4, resolution=16, streams=4, maps=True).batches(0))
    without = next(Reader(places=str(tmp_path / "shards"), batch=4, resolution=16, streams=4).batches(0))
    assert "maps" not in without.cond.parts
    assert torch.equal(with_them.image, without.image)
    assert len(with_them.cond.parts["maps"].value) == 4


def test_members_of_tars_are_maps(pictures, tmp_path):
    """Packed shards, packed again with their own maps: at another size, by the member's name."""
    maps = write_maps(tmp_path / "maps", pictures)
    packed(pictures, tmp_path / "first", maps)
    for said in ("map.png", ".MAP.png"):
        settings = PackSettings(size=8, shards=4, maps=said)
        index = pack(tmp_path / "first", tmp_path / said.strip("."), settings, workers=0)
        assert index.maps == 1
        assert ".map.png in tars" not in index.unread
    direct = pack(pictures, tmp_path / "direct", PackSettings(size=8, shards=4, maps=str(maps)), workers=0)
    one, other = (
        {
            bytes(image.numpy().tobytes()): map_
            for batch in read_split(str(folder), "train", batch=4, resolution=8, maps=True)
            for image, map_ in zip(batch.image, batch.cond.value("maps"), strict=True)
        }
        for folder in (tmp_path / "map.png", tmp_path / "direct")
    )
    assert direct.num == len(one)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(
        ValueError, match=r"--maps seg\.png: 12 of 12 samples have no such member, the first is .*map\.png"
    ):
        pack(tmp_path / "first", tmp_path / "none", PackSettings(size=8, maps="seg.png"), workers=0)
    with pytest.raises(ValueError, match="holds something else"):  # without maps it is another data set
        pack(tmp_path / "first", tmp_path / "map.png", PackSettings(size=8, shards=4), workers=0)
    again = pack(tmp_path / "first", tmp_path / "without", PackSettings(size=8), workers=0)
    assert (again.maps, again.unread[".map.png in tars"].num) == (0, 12)


def test_a_map_that_is_a_picture_file_is_not_the_picture(tmp_path):
    """Of 000.png and 000.jpg, `--maps png` says which is which, though readers prefer a png."""
    pairs = [(f"{k:03d}.png", png(40 * k, mode="L")) for k in range(3)]
    pairs += [(f"{k:03d}.jpg", png((250, 250, 250), format="JPEG")) for k in range(3)]
    make_tar(tmp_path / "src/0.tar", pairs)
    index = packed(tmp_path / "src", tmp_path / "shards", "png", upscale=True)
    assert (index.num, index.maps, list(index.unread)) == (3, 1, [])
    for batch in read_split(str(tmp_path / "shards"), "train", batch=4, resolution=16, maps=True):
        assert (batch.image > 240).all()
        assert set(batch.cond.value("maps").unique().tolist()) <= {0, 40, 80}


def test_shards_without_maps_are_the_bytes_they_were(pictures, tmp_path):
    index = pack(pictures, tmp_path / "shards", PackSettings(size=16, shards=4), workers=0)
    text = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert index.maps == 0
    assert "maps" not in text
    assert "maps" not in text["settings"]


def test_packing_again_with_other_maps_is_not_taken_for_done(pictures, tmp_path):
    pack(pictures, tmp_path / "shards", PackSettings(size=16, shards=4), workers=0)
    maps = write_maps(tmp_path / "maps", pictures)
    with pytest.raises(ValueError, match="holds something else"):
        packed(pictures, tmp_path / "shards", maps)


def test_what_does_not_fit_is_refused(pictures, tmp_path):
    maps = write_maps(tmp_path / "maps", pictures)
    first = sorted(maps.rglob("*.png"))[0]
    content = first.read_bytes()
    with pytest.raises(ValueError, match=r"--maps .*nowhere is not a folder"):
        packed(pictures, tmp_path / "shards", tmp_path / "nowhere")
    first.unlink()
    with pytest.raises(ValueError, match=rf"no map for .*{first.name}"):
        packed(pictures, tmp_path / "shards", maps)
    Image.open(sorted(maps.rglob("*.png"))[1]).convert("RGB").save(first)
    with pytest.raises(ValueError, match=r"is coloured, that of .* is not; save all alike"):
        packed(pictures, tmp_path / "shards", maps)
    first.write_bytes(content)
    pack(pictures, tmp_path / "without", PackSettings(size=16, shards=4), workers=0)
    with pytest.raises(ValueError, match=r"data .* has no maps; pack with --maps FOLDER"):
        Reader(places=str(tmp_path / "without"), batch=4, resolution=16, streams=4, maps=True)
    assert not (tmp_path / "shards").exists()


def test_a_map_of_another_size_counts_as_bad(pictures, tmp_path):
    maps = write_maps(tmp_path / "maps", pictures, size=(8, 8))
    with pytest.raises(ValueError, match=r"12 of 12 pictures are bad|no readable picture .*its map is 8 x 8 px"):
        packed(pictures, tmp_path / "shards", maps)
