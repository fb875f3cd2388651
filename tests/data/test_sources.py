"""Each kind of source, packed; and names that try to leave their folder."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.index import load
from data.index.items import Choices
from data.index.tree import look
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.pack.sources import find_kind
from data.read.shards import read_split

from .conftest import foreign_folder, listed, make_tar, members, png


def image_folder(folder: Path, rows: list[dict], color=(200, 30, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if (name := row["file_name"]) and not name.startswith(("/", "..")) and not row.pop("missing", False):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png(color))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_metadata_folder(tmp_path):
    src = image_folder(
        tmp_path / "src",
        [
            {"file_name": "a.png", "caption": "first", "kind": "dog", "camera": "x"},
            {"file_name": "sub/b.png", "caption": None, "kind": "cat"},
        ],
    )
    settings = PackSettings(size=16, text_column="caption", label_column="kind")
    index = pack(src, tmp_path / "out", settings)
    assert (index.classes, index.label_counts) == (["cat", "dog"], {"cat": 1, "dog": 1})
    assert index.has_text
    assert (index.size, index.num_images) == ((16, 16), {"train": 2})
    got = members(tmp_path / "out")
    assert sorted(got) == ["a", "sub_b-" + next(k for k in got if k.startswith("sub"))[6:]]
    assert got["a"]["txt"] == b"first"
    assert got["a"]["cls"] == b"1"
    facts = json.loads(got["a"]["json"])
    assert facts == {"camera": "x", "source": "a.png", "width": 24, "height": 24}
    other = next(sample for key, sample in got.items() if key != "a")
    assert (other["txt"], other["cls"]) == (b"", b"0")


def test_whole_number_labels_stay_what_they_are(tmp_path):
    rows = [{"file_name": f"{n}.png", "label": n} for n in (0, 3)]
    index = pack(image_folder(tmp_path / "src", rows), tmp_path / "out", PackSettings(size=16))
    assert index.classes == ["0", "1", "2", "3"]
    assert sorted(sample["cls"] for sample in members(tmp_path / "out").values()) == [b"0", b"3"]


def test_class_folders(tmp_path):
    for name, color in (("zebra", (0, 0, 0)), ("ant", (255, 0, 0))):
        (tmp_path / "src" / name).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "src" / name / f"{k}.png").write_bytes(png(color))
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16))
    assert index.classes == ["ant", "zebra"]
    assert index.label_counts == {"ant": 3, "zebra": 3}
    assert not index.has_text
    for batch in read_split(tmp_path / "out", "train", batch=6, resolution=16, label=True):
        red = batch.image[:, 0, 8, 8] == 255
        assert batch.cond.value("label").tolist() == [0 if is_red else 1 for is_red in red.tolist()]


def test_plain_folder_with_and_without_sidecar_captions(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for k in range(3):
        (src / f"{k}.png").write_bytes(png())
    index = pack(src, tmp_path / "a", PackSettings(size=16))
    assert (index.classes, index.has_text, index.num_images) == (None, False, {"train": 3})
    (src / "1.txt").write_text("one\n")
    assert pack(src, tmp_path / "b", PackSettings(size=16)).has_text
    assert {key: sample["txt"] for key, sample in members(tmp_path / "b").items()} == {"0": b"", "1": b"one", "2": b""}


def test_tars_are_packed_again_at_another_size(tmp_path):
    src = foreign_folder(tmp_path / "src", index=False)
    index = pack(src, tmp_path / "out", PackSettings(size=8))
    assert index.num_images == {"train": 10}
    assert (index.size, index.has_text) == ((8, 8), True)
    got = members(tmp_path / "out")
    assert got["000010003"]["txt"] == b"picture 3 of 1"
    assert json.loads(got["000010003"]["json"]) == {
        "caption": "x", "source": "00001.tar/000010003", "width": 24, "height": 24,
    }  # fmt: skip
    batch = next(read_split(tmp_path / "out", "train", batch=10, resolution=8))
    of = dict(zip(batch.keys, batch.image, strict=True))
    np.testing.assert_allclose(of["000010003"][:, 4, 4], (30, 20, 90), atol=4)


def test_tars_are_kept_to_the_byte(tmp_path):
    src = foreign_folder(tmp_path / "src", index=False)
    index = pack(src, tmp_path / "out", PackSettings(size=0))
    assert index.resize is None
    assert index.num_images == {"train": 10}
    assert index.size == (24, 24)
    for path in src.glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="--text-encoder minilm changes shards"):
        pack(src, tmp_path / "other", PackSettings(size=0, text_encoder="minilm"))


def test_classes_of_a_packed_folder_keep_their_names(packed, tmp_path):
    index = pack(packed, tmp_path / "out", PackSettings(size=12))
    assert index.classes == load(packed).classes
    assert index.label_counts == load(packed).label_counts


def test_kinds_are_found_by_content_and_can_be_forced(tmp_path, shapes):
    assert find_kind(look(shapes), Choices()) == "metadata"
    assert pack(shapes, tmp_path / "a", PackSettings(size=16, source="plain")).classes is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no pictures .* name a folder that has"):
        pack(tmp_path / "empty", tmp_path / "b", PackSettings())
    with pytest.raises(ValueError, match="is not a folder"):
        pack(tmp_path / "nowhere", tmp_path / "b", PackSettings())


def test_names_that_leave_the_folder_and_missing_files_are_counted(tmp_path):
    (tmp_path / "outside.png").write_bytes(png((1, 2, 3)))
    rows = [{"file_name": f"{k}.png"} for k in range(6)]
    rows += [{"file_name": name} for name in ("../outside.png", str(tmp_path / "outside.png"), "0.png")]
    rows += [{"file_name": "gone.png", "missing": True}]
    src = image_folder(tmp_path / "src", rows)
    with pytest.raises(ValueError, match=r"4 of 10 pictures are bad, .*0\.05.*missing file: gone\.png"):
        pack(src, tmp_path / "out", PackSettings(size=16))
    assert not (tmp_path / "out").exists()
    index = pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.5))
    assert {why: (s.num, s.names) for why, s in index.skipped.items()} == {
        "listed twice": (1, ["0.png"]),
        "missing file": (1, ["gone.png"]),
        "outside the folder": (2, ["../outside.png", str(tmp_path / "outside.png")]),
    }


def test_keys_are_plain_and_unique_whatever_the_names(tmp_path):
    names = ["a b.png", "a#b.png", "a?b.png", "ä.png", "x.y.png", "x.png", "x.jpg", "UPPER.PNG", "s/a.png", "s_a.png"]
    names += ["-" + "n" * 150 + ".png"]
    src = image_folder(tmp_path / "src", [{"file_name": name} for name in names])
    pack(src, tmp_path / "out", PackSettings(size=16))
    got = members(tmp_path / "out")
    assert len(got) == len(names)
    assert {json.loads(sample["json"])["source"] for sample in got.values()} == set(names)
    for key in got:
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert len(key) < 90


def test_names_that_are_no_text_and_odd_labels_are_counted_or_packed(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (src / "a.png").write_bytes(png())
    (src / os.fsdecode(b"\xff.png")).write_bytes(png())
    (src / os.fsdecode(b"\xfe.png")).write_bytes(b"junk")
    index = pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.5))
    assert index.num_images == {"train": 2}
    (names,) = (skipped.names for skipped in index.skipped.values())
    assert names[0].startswith(r"\udcfe.png")
    make_tar(
        tmp_path / "tars/0.tar", [(f"{k}.{ext}", c) for k in "ab" for ext, c in (("png", png()), ("cls", k.encode()))]
    )
    with pytest.raises(
        ValueError, match=r"2 \.cls member is no class number below 100,000: .*0\.tar/a \(it holds b'a'\)"
    ):
        pack(tmp_path / "tars", tmp_path / "out2", PackSettings(size=16))


def test_member_names_of_foreign_tars_are_never_paths(tmp_path):
    content = png()
    names = ["../../evil", "/abs/evil", "dir/../up", "pipe:touch evil", "${HOME}"]
    make_tar(tmp_path / "src" / "0.tar", [(f"{name}.png", content) for name in names])
    pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16))
    assert len(members(tmp_path / "out")) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "src"]
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        assert all("/" not in name and ".." not in name for name in tar.getnames())


def test_links_and_devices_in_tars_are_skipped(tmp_path):
    path = tmp_path / "src" / "0.tar"
    make_tar(path, [("a.png", png())])
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind!r}.png".replace("'", ""))
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16)).num_images == {"train": 1}


def test_metadata_that_is_not_what_it_should_be(tmp_path):
    src = image_folder(tmp_path / "src", [{"file_name": "a.png", "text": ["two", "captions"], "group": "x"}])
    with pytest.raises(ValueError, match=r"no readable picture \(1 caption is no text: a\.png\)"):
        pack(src, tmp_path / "out", PackSettings(size=16))
    with pytest.raises(ValueError, match=r"--text-column 'caption' is not in .* file_name, group, text"):
        listed(src, text_column="caption")
    (src / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{oops\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        listed(src)
    (src / "metadata.jsonl").write_text('{"name": "a.png"}\n')
    with pytest.raises(ValueError, match="line 1 names no picture"):
        listed(src)
    (src / "metadata.jsonl").write_text('{"file_name": "a.png", "label": [1]}\n')
    with pytest.raises(ValueError, match=r"a label in .* is \[1\]"):
        listed(src)


def test_every_picture_mode_packs_to_rgb(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(src / "cmyk.jpg")
    Image.new("LA", (30, 40), (9, 0)).save(src / "la.png")
    Image.fromarray(np.full((33, 33), 40_000, np.uint16)).save(src / "deep.png")
    Image.new("P", (32, 32), 0).save(src / "pal.gif")
    Image.new("RGBA", (64, 32), (0, 0, 255, 255)).save(src / "rgba.webp", lossless=True)
    index = pack(src, tmp_path / "out", PackSettings(size=32, max_bad=0.0, upscale=True))
    assert index.num_images == {"train": 5}
    batch = next(read_split(tmp_path / "out", "train", batch=5, resolution=32))
    center = {key: tuple(image[:, 16, 16].tolist()) for key, image in zip(batch.keys, batch.image, strict=True)}
    assert center["la"] == (255, 255, 255)
    assert center["deep"] == (156, 156, 156)
    assert center["rgba"] == (0, 0, 255)
    assert center["cmyk"][0] > 240
    assert center["cmyk"][1] < 15
