"""Original sizes: what the json members of shards say of their pictures before they were packed, read with them."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from data.index import save
from data.index.tally import index_folder
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.facts import original_size
from data.read.shards import Reader, read_split


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of 24 x 20, 25 x 20, ... px, each of one colour."""
    (tmp_path / "pictures").mkdir()
    for k in range(5):
        Image.new("RGB", (24 + k, 20), (40 * k, 0, 0)).save(tmp_path / "pictures" / f"{k}.png")
    return tmp_path / "pictures"


def read_sizes(folder, split="train"):
    """{colour: (height, width)} of the packed pictures."""
    found = {}
    for batch in read_split(str(folder), split, batch=4, resolution=16, original_sizes=True):
        part = batch.cond.parts["original_size"]
        assert part.value.dtype == torch.int64
        assert part.keep.all()
        reds = batch.image[:, 0, 8, 8].tolist()
        found |= {round(red / 40): tuple(size) for red, size in zip(reds, part.value.tolist(), strict=True)}
    return found


def test_each_picture_has_the_size_it_had(pictures, tmp_path):
    pack(pictures, tmp_path / "shards", PackSettings(size=16), workers=0)
    assert read_sizes(tmp_path / "shards") == {k: (20, 24 + k) for k in range(5)}
    batch = next(
        Reader(places=str(tmp_path / "shards"), batch=4, streams=4, resolution=16, original_sizes=True).batches()
    )
    assert batch.cond.value("original_size").shape == (4, 2)
    without = next(Reader(places=str(tmp_path / "shards"), batch=4, streams=4, resolution=16).batches())
    assert torch.equal(without.image, batch.image)
    assert not without.cond.parts


def test_packing_shards_again_keeps_the_first_size(pictures, tmp_path):
    pack(pictures, tmp_path / "large", PackSettings(size=18), workers=0)
    pack(tmp_path / "large", tmp_path / "small", PackSettings(size=16), workers=0)
    pack(tmp_path / "small", tmp_path / "again", PackSettings(size=16, val=0.4), workers=0)
    sizes = {k: (20, 24 + k) for k in range(5)}
    assert read_sizes(tmp_path / "small") == sizes
    assert read_sizes(tmp_path / "again") | read_sizes(tmp_path / "again", "val") == sizes


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        ({"width": 3, "height": 4}, (4, 3)),
        ({"width": 3, "height": 4, "original_width": 30, "original_height": 40}, (40, 30)),
        ({"width": 3, "height": 4, "original_width": 30}, (4, 3)),
        ({"width": 3, "height": 4, "original_width": None, "original_height": None}, (4, 3)),
        ({"width": True, "height": 4}, None),
        ({"width": 0, "height": 4}, None),
        ({"width": 1 << 40, "height": 4}, None),
        ({"width": "3", "height": 4}, None),
        ([3, 4], None),
    ],
)
def test_what_counts_as_a_size(facts, size):
    content = json.dumps(facts).encode()
    if size:
        assert original_size(content) == size
    else:
        with pytest.raises(ValueError, match="no original size"):
            original_size(content)


def write_tars(folder, facts):
    """A tar of somebody else's: pictures, and a json member where `facts` has one."""
    folder.mkdir()
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "PNG")
    with tarfile.open(folder / "train-00000.tar", "w") as tar:
        for k, fact in enumerate(facts):
            members = {"png": out.getvalue()} | ({} if fact is None else {"json": json.dumps(fact).encode()})
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{k}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def test_shards_without_sizes_are_refused_and_the_step_is_named(tmp_path):
    for name, facts in (("bare", [None] * 4), ("odd", [{"url": "x"}] * 4)):
        folder = write_tars(tmp_path / name, facts)
        save(index_folder(folder), folder)
        wanted = rf"data .*{name} has no original sizes of its pictures; pack them with: python -m data\.pack PICTURES SHARDS"
        with pytest.raises(ValueError, match=wanted):
            next(read_split(str(folder), "train", batch=4, resolution=16, original_sizes=True))
        with pytest.raises(ValueError, match=wanted):
            Reader(places=str(folder), batch=4, streams=1, resolution=16, original_sizes=True)
        Reader(places=str(folder), batch=4, streams=1, resolution=16)
    pack(tmp_path / "bare", tmp_path / "packed", PackSettings(size=16), workers=0)
    assert next(read_split(str(tmp_path / "packed"), "train", batch=4, resolution=16, original_sizes=True))


def test_a_single_picture_without_a_size_is_a_bad_one(tmp_path, caplog):
    folder = write_tars(tmp_path / "tars", [{"width": 20, "height": 30}, {"url": "x"}, {"width": 40, "height": 50}])
    save(index_folder(folder), folder)
    (batch,) = read_split(str(folder), "train", batch=4, resolution=16, original_sizes=True)
    assert batch.cond.value("original_size").tolist() == [[30, 20], [50, 40], [50, 40]]
    assert "bad sample 1 replaced by the next one: its json member has no original size" in caplog.text
