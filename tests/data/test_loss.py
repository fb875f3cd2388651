"""Nothing of a source is lost without a word: captions, formats, sizes, held-out pictures."""

import codecs
import io
import json

import numpy as np
import pytest
from PIL import Image

from data.captions import MAX_CAPTION_BYTES
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split

from .conftest import lay, listed, make_tar, members, png

CAPTIONS = {
    "utf8": "café".encode(),
    "mark": codecs.BOM_UTF8 + b"marked",
    "utf16": "wide é".encode("utf-16"),
    "cp1252": b"it\x92s a caf\xe9",
    "long": b"x" * (MAX_CAPTION_BYTES + 1),
    "empty": b" \n",
    "none": None,
}
READ = {"utf8": "café", "mark": "marked", "utf16": "wide é", "empty": "", "none": ""}


def as_folder(folder):
    others = {f"{name}.txt": content for name, content in CAPTIONS.items() if content is not None}
    return lay(folder, *(f"{name}.png" for name in CAPTIONS), others=others)


def as_tars(folder):
    rows = [
        (f"{name}.{ext}", c)
        for name, text in CAPTIONS.items()
        for ext, c in (("png", png()), ("txt", text))
        if c is not None
    ]
    make_tar(folder / "0.tar", rows)
    return folder


def captions(folder) -> dict[str, str]:
    return {
        json.loads(s["json"])["source"].split("/")[-1].split(".")[0]: s["txt"].decode()
        for s in members(folder).values()
    }


@pytest.mark.parametrize("made", [as_folder, as_tars])
def test_captions_are_read_or_counted_alike_in_folders_and_tars(tmp_path, made):
    src = made(tmp_path / "src")
    index = pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.3))
    assert captions(tmp_path / "out") == READ
    assert index.has_text
    assert {why: s.num for why, s in index.skipped.items()} == {
        "caption is neither UTF-8 nor UTF-16 with its mark": 1,
        "caption too long": 1,
    }
    assert {note: s.num for note, s in index.notes.items()} == {
        "without a caption, trained as empty": sum(not text for text in READ.values())
    }
    index = pack(src, tmp_path / "less", PackSettings(size=16, max_bad=0.3, skip_uncaptioned=True))
    assert captions(tmp_path / "less") == {name: text for name, text in READ.items() if text}
    assert index.skipped["without a caption"].num == sum(not text for text in READ.values())
    assert index.notes == {}


def test_captions_of_metadata_are_checked_too(tmp_path):
    rows = [
        {"file_name": f"{k}.png", "text": text}
        for k, text in enumerate(["fine", None, "x" * (MAX_CAPTION_BYTES + 1), "\ud83d", "a\0"])
    ]
    src = lay(
        tmp_path, *(row["file_name"] for row in rows), others={"metadata.jsonl": "\n".join(map(json.dumps, rows))}
    )
    source = listed(src)
    assert [item.text for item in source.items] == ["fine", ""]
    assert source.bad == [
        ("caption too long", "2.png"), ("caption holds half a character", "3.png"), ("caption holds NUL characters", "4.png"),
    ]  # fmt: skip


def test_a_source_without_any_caption_is_not_taken_for_empty_ones(tmp_path):
    index = pack(lay(tmp_path / "src", "a.png"), tmp_path / "out", PackSettings(size=16))
    assert (index.has_text, index.notes) == (False, {})
    with pytest.raises(ValueError, match=r"no readable picture \(1 without a caption: a\.png"):
        pack(tmp_path / "src", tmp_path / "none", PackSettings(size=16, skip_uncaptioned=True))


def saved(format: str, image: Image.Image | None = None, **options) -> bytes:
    out = io.BytesIO()
    (image or Image.new("RGB", (24, 24), (200, 30, 30))).save(out, format, **options)
    return out.getvalue()


def test_all_formats_of_folders_are_read(tmp_path):
    deep = Image.fromarray(np.full((24, 24), 40_000, np.uint16))
    others = {
        "a.bmp": saved("BMP"), "b.tif": saved("TIFF", compression="tiff_lzw"), "c.avif": saved("AVIF", quality=95),
        "d.TIFF": saved("TIFF", deep), "e.jfif": saved("JPEG", quality=95), "f.png": saved("BMP"),
    }  # fmt: skip
    index = pack(lay(tmp_path / "src", others=others), tmp_path / "out", PackSettings(size=24, max_bad=0))
    assert index.num_images == {"train": 6}
    batch = next(read_split(tmp_path / "out", "train", batch=6, resolution=24))
    color = {key[0]: tuple(image[:, 12, 12].tolist()) for key, image in zip(batch.keys, batch.image, strict=True)}
    assert color.pop("d") == (156, 156, 156)
    for got in color.values():
        np.testing.assert_allclose(got, (200, 30, 30), atol=6)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(np.full((24, 24), 0.5, np.float32)), "numbers with a fraction"),
        (Image.fromarray(np.full((24, 24), 1 << 20, np.int32)), "32 bits a channel"),
    ],
)
def test_depths_that_would_be_clipped_are_counted(tmp_path, image, says):
    src = lay(tmp_path / "src", "a.png", others={"b.tif": saved("TIFF", image)})
    index = pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.5))
    assert says in index.skipped["broken TIFF picture"].names[0]


def test_one_tiny_picture_can_be_left_out(tmp_path):
    src = lay(tmp_path / "src", "a.png", "b.png", others={"tiny.png": png(size=(24, 1))})
    assert pack(src, tmp_path / "all", PackSettings(resize="none")).min_side == 1
    index = pack(src, tmp_path / "out", PackSettings(resize="none", min_side=16))
    assert (index.min_side, index.num_images) == (24, {"train": 2})
    assert index.skipped["smaller than --min-side"].names == ["tiny.png"]


def test_too_many_bad_pictures_are_all_named_with_the_way_to_leave_them_out(tmp_path):
    src = lay(
        tmp_path / "src", *(f"{k}.png" for k in range(5)), others={"x.png": "junk", "y.png": b"", "z.jpg": png()[:60]}
    )
    with pytest.raises(
        ValueError, match=r"3 of 8 pictures are bad, .*; mend them, or leave them out with --max-bad 0\.38"
    ):
        pack(src, tmp_path / "out", PackSettings(size=16))
    assert pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.38)).num_images == {"train": 5}


def test_splits_of_shards_are_carried_over_and_guarded(tmp_path):
    for name in ("data/validation-00000-of-00002.tar", "imagenet1k-test-00.tar", "valley-00000.tar"):
        make_tar(tmp_path / "src" / name, [(f"{name[:4]}{k}.png", png()) for k in range(3)])
    index = pack(tmp_path / "src", tmp_path / "a", PackSettings(size=16))
    assert index.num_images == {"test": 3, "train": 3, "val": 3}
    assert {key[:4] for key in members_of(tmp_path / "a", "val")} == {"data"}
    again = pack(tmp_path / "a", tmp_path / "b", PackSettings(size=8))
    assert members_of(tmp_path / "b", "val") == members_of(tmp_path / "a", "val")
    assert again.read_as.endswith("with their index), 3 splits")
    with pytest.raises(ValueError, match=r"holds out 3 pictures itself; leave out --val 0\.5 .* or add --no-splits"):
        pack(tmp_path / "a", tmp_path / "c", PackSettings(size=8, val=0.5))
    mixed = pack(tmp_path / "a", tmp_path / "c", PackSettings(size=8, val=0.5, splits=False))
    assert "test" not in mixed.num_images
    assert sum(mixed.num_images.values()) == 9
    with pytest.raises(ValueError, match="--no-splits changes shards"):
        pack(tmp_path / "a", tmp_path / "d", PackSettings(size=0, splits=False))


def test_train_pictures_are_divided_where_only_a_test_split_is_given(tmp_path):
    src = lay(tmp_path / "src", *(f"train/{k}.png" for k in range(20)), "test/a.png")
    index = pack(src, tmp_path / "out", PackSettings(size=16, val=0.3))
    assert index.num_images["test"] == 1
    assert index.num_images["train"] + index.num_images["val"] == 20
    assert index.num_images["val"] > 0


def test_either_all_samples_have_a_caption_member_or_none(tmp_path):
    for folder in (as_folder(tmp_path / "a"), as_tars(tmp_path / "b")):
        pack(folder, tmp_path / f"out-{folder.name}", PackSettings(size=16, max_bad=0.3))
        assert len({tuple(sorted(sample)) for sample in members(tmp_path / f"out-{folder.name}").values()}) == 1


def members_of(folder, split: str) -> set[str]:
    return {key for batch in read_split(folder, split, batch=10, resolution=8) for key in batch.keys}
