"""Tars of others: whatever lies in them is read, or counted and named; nothing is lost without a word."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from data.cli import run
from data.index import load, report
from data.index.tally import index_folder
from data.index.tally import main as index_main
from data.pack.__main__ import main as pack_main
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from data.tar import ShardError, contents, stream

from .conftest import foreign_folder, make_tar, png

SMALL = PackSettings(size=16, upscale=True)


def packed_samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """All samples of a packed folder, by the picture's name in its source."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            for _, sample in stream(file, path.name):
                found[json.loads(sample["json"])["source"]] = sample
    return found


def told(folder: Path, capsys) -> str:
    """What the packer says at the end about a folder."""
    capsys.readouterr()
    report(load(folder), folder)
    return capsys.readouterr().out


def command(monkeypatch, capsys, main, *words) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        run(main)
    return left.value.code, capsys.readouterr().err.splitlines()[-1]


# ---- where members lie


def test_members_of_a_key_are_found_wherever_they_lie(tmp_path):
    members = [("a.png", png((10, 0, 0))), ("b.png", png((20, 0, 0))), ("b.txt", b"of b"), ("a.txt", b"of a")]
    make_tar(tmp_path / "src/0.tar", members)
    pack(tmp_path / "src", tmp_path / "out", SMALL)
    assert {name: sample["txt"] for name, sample in packed_samples(tmp_path / "out").items()} == {
        "0.tar/a": b"of a", "0.tar/b": b"of b",
    }  # fmt: skip


def test_tars_that_are_read_as_they_are_have_members_apart_named(tmp_path):
    """A reader sees a tar once, from start to end."""
    make_tar(tmp_path / "d/0.tar", [("a.png", png()), ("b.png", png()), ("b.txt", b"of b"), ("a.txt", b"of a")])
    index = index_folder(tmp_path / "d")
    assert index.notes["with members that lie apart, not read together (data.pack does)"].names == ["0.tar/a"]
    assert index.skipped["no picture"].names == ["0.tar/a"]
    assert index.num_images == {"train": 3}


def test_what_an_index_reports_is_what_training_reads(tmp_path, monkeypatch, capsys):
    """All pictures, then all captions of the same keys: as many places again, at which pictures come a second time."""
    members = [(f"{k}.png", png((10 * k, 0, 0))) for k in range(8)] + [(f"{k}.txt", b"red") for k in range(8)]
    make_tar(tmp_path / "d/0.tar", members)
    monkeypatch.setattr(sys, "argv", ["index", str(tmp_path / "d")])
    with pytest.raises(SystemExit):
        run(index_main)
    out = capsys.readouterr().out
    assert "16 places in 1 train shards" in out
    assert "8 pictures; at the other 8 places, told below, training reads the next good one" in out
    assert "skipped 8: no picture" in out
    keys = [key for batch in read_split(tmp_path / "d", "train", batch=16, resolution=8) for key in batch.keys]
    assert len(keys) == 16
    assert len(set(keys)) == 8


def test_keys_with_dots_alone_are_told_by_the_index_as_well(tmp_path):
    make_tar(tmp_path / "d/0.tar", DOTTED)
    with pytest.raises(
        ValueError, match=r"no picture in 1 shards; keys end at the first dot .*data\.pack .* --dotted-keys"
    ):
        index_folder(tmp_path / "d")


def test_one_member_twice_is_an_error_however_far_apart(tmp_path):
    path = make_tar(tmp_path / "0.tar", [("a.png", png()), ("b.png", png()), ("a.png", png())])
    with pytest.raises(ShardError, match=r"0\.tar has a key twice \(a\.png: duplicate"):
        contents(path)


# ---- keys with dots


DOTTED = [(f"img.v{k}.{ext}", content) for k in (2, 3) for ext, content in (("jpg", png()), ("txt", b"%d" % k))]


def test_keys_with_dots_are_counted_and_named_not_taken_for_one_sample(tmp_path):
    make_tar(tmp_path / "src/0.tar", [*DOTTED, *[(f"{k}.png", png()) for k in range(30)]])
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, max_bad=0.1))
    assert index.num_images == {"train": 30}
    assert {why: s.names for why, s in index.skipped.items()} == {
        "dot in the key, see --dotted-keys": ["0.tar/img.v2.jpg", "0.tar/img.v3.jpg"]
    }
    assert index_folder(tmp_path / "src").skipped["dot in the key, see --dotted-keys"].names == [
        "0.tar/img (only .v2.jpg, .v3.jpg)"
    ]


def test_keys_with_dots_are_read_when_asked(tmp_path):
    make_tar(tmp_path / "src/0.tar", DOTTED)
    with pytest.raises(ValueError, match="2 dot in the key, see --dotted-keys"):
        pack(tmp_path / "src", tmp_path / "out", SMALL)
    pack(tmp_path / "src", tmp_path / "out", SMALL.model_copy(update={"dotted_keys": True}))
    samples = packed_samples(tmp_path / "out")
    assert {name: sample["txt"] for name, sample in samples.items()} == {"0.tar/img.v2": b"2", "0.tar/img.v3": b"3"}


def test_other_pictures_of_a_sample_are_told(tmp_path, capsys):
    """key.mask.png beside key.png is a field, for all who read webdataset."""
    members = [(f"{k}.{ext}", png()) for k in range(3) for ext in ("png", "mask.png")] + [("2.wav", b"la")]
    make_tar(tmp_path / "src/0.tar", members)
    index = pack(tmp_path / "src", tmp_path / "out", SMALL)
    assert index.num_images == {"train": 3}
    assert {what: skipped.num for what, skipped in index.unread.items()} == {".mask.png in tars": 3, ".wav in tars": 1}
    assert "not read 3 .mask.png in tars: 0.tar/0.mask.png" in told(tmp_path / "out", capsys)


# ---- what is too large, or not what it should be


def test_a_caption_or_picture_that_is_too_large_is_named(tmp_path):
    members = [("a.png", png()), ("a.txt", b"x" * 300_000), ("b.png", bytes((64 << 20) + 1)), ("c.png", png())]
    make_tar(tmp_path / "src/0.tar", members)
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, max_bad=0.9))
    assert index.num_images == {"train": 1}
    assert {why: s.names for why, s in index.skipped.items()} == {
        ".png member too large": ["0.tar/b (67,108,865 bytes, at most 67,108,864)"],
        "caption too long": ["0.tar/a (300,000 bytes, at most 262,144)"],
    }
    assert index_folder(tmp_path / "src").notes["with a member too large to be read"].names == [
        "0.tar/a.txt (300,000 bytes, at most 262,144)",
        "0.tar/b.png (67,108,865 bytes, at most 67,108,864)",
    ]


def test_pictures_of_other_formats_are_read_or_named(tmp_path):
    kinds = {"gif": "GIF", "bmp": "BMP", "tif": "TIFF", "avif": "AVIF"}
    members = [(f"{name}.{name}", png(format=format)) for name, format in kinds.items()] + [("x.jxl", b"no")]
    make_tar(tmp_path / "src/0.tar", members)
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, max_bad=0.5))
    assert index.num_images == {"train": 4}
    assert index.skipped["no picture"].names == ["0.tar/x (only .jxl)"]


def test_a_class_that_is_a_name_says_which_member_is_wrong(tmp_path):
    make_tar(tmp_path / "src/0.tar", [("a.png", png()), ("a.cls", b"cat"), ("b.png", png()), ("b.cls", b"1")])
    with pytest.raises(
        ValueError, match=r"1 \.cls member is no class number below 100,000: 0\.tar/a \(it holds b'cat'\)"
    ):
        pack(tmp_path / "src", tmp_path / "out", SMALL)
    assert index_folder(tmp_path / "src").skipped[".cls member is no class number below 100,000"].num == 1


def test_samples_have_a_class_all_or_none(tmp_path):
    make_tar(tmp_path / "src/0.tar", [("a.png", png()), ("a.cls", b"1"), ("b.png", png())])
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, max_bad=0.5))
    assert index.skipped["no label"].names == ["0.tar/b"]
    assert index.num_images == {"train": 1}


# ---- captions


def test_all_samples_have_a_caption_or_none(tmp_path):
    """What `datasets.load_dataset("webdataset")` needs: the same members in every sample."""
    make_tar(
        tmp_path / "src/0.tar",
        [("a.png", png()), ("a.txt", b"of a"), ("b.png", png()), ("c.png", png()), ("c.txt", b" ")],
    )
    index = pack(tmp_path / "src", tmp_path / "out", SMALL)
    samples = packed_samples(tmp_path / "out")
    assert {frozenset(sample) for sample in samples.values()} == {frozenset({"png", "json", "txt"})}
    assert [samples[f"0.tar/{key}"]["txt"] for key in "abc"] == [b"of a", b"", b""]
    assert index.notes["without a caption, trained as empty"].num == 2
    skipping = SMALL.model_copy(update={"skip_uncaptioned": True})
    assert pack(tmp_path / "src", tmp_path / "skipping", skipping).num_images == {"train": 1}


def with_json(folder: Path, rows: list[dict]) -> Path:
    members = []
    for k, row in enumerate(rows):
        members += [(f"{k}.png", png()), (f"{k}.txt", b"short"), (f"{k}.json", json.dumps(row).encode())]
    make_tar(folder / "0.tar", members)
    return folder


def test_the_column_of_captions_is_looked_up_in_json(tmp_path):
    src = with_json(tmp_path / "src", [{"long": "a long one", "n": 1}, {"n": 2}, {"long": None}])
    index = pack(src, tmp_path / "out", SMALL.model_copy(update={"text_column": "long"}))
    samples = packed_samples(tmp_path / "out")
    assert [samples[f"0.tar/{k}"]["txt"] for k in range(3)] == [b"a long one", b"", b""]
    assert index.notes["without a caption, trained as empty"].num == 2
    assert "captions in .json" in index.read_as
    assert {s["txt"] for s in (pack(src, tmp_path / "two", SMALL) and packed_samples(tmp_path / "two")).values()} == {
        b"short"
    }


def test_a_column_that_no_json_has_is_refused(tmp_path):
    src = with_json(tmp_path / "src", [{"long": "a long one", "n": 1}])
    with pytest.raises(
        ValueError, match=r"--text-column 'lnog' is in no \.json member, which have long, n; name one of"
    ):
        pack(src, tmp_path / "out", SMALL.model_copy(update={"text_column": "lnog"}))
    make_tar(tmp_path / "bare/0.tar", [("a.png", png())])
    with pytest.raises(ValueError, match=r"--text-column 'long': .*bare has no \.json members"):
        pack(tmp_path / "bare", tmp_path / "out", SMALL.model_copy(update={"text_column": "long"}))


def test_a_caption_in_json_that_is_no_text_is_counted(tmp_path):
    src = with_json(tmp_path / "src", [{"long": "a long one"}, {"long": ["one", "two"]}])
    index = pack(src, tmp_path / "out", PackSettings(size=16, text_column="long", max_bad=0.5))
    assert index.skipped["caption is no text"].names == ["0.tar/1"]


# ---- shards that cannot be read


@pytest.fixture
def damaged(tmp_path):
    """Four shards of five pictures: one cut, one of garbage, and a compressed one besides."""
    folder = foreign_folder(tmp_path / "d", num_shards=4, index=False)
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:3000])
    (folder / "00003.tar").write_bytes(b"\7" * 4096)
    (folder / "00004.tar.gz").write_bytes(gzip.compress((folder / "00000.tar").read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("main", "target"), [(pack_main, ["out", "--size", "16"]), (pack_main, ["out", "--keep"]), (index_main, [])]
)
def test_all_shards_that_cannot_be_read_are_named_at_once(damaged, main, target, tmp_path, monkeypatch, capsys):
    words = [damaged, *[tmp_path / "out" if word == "out" else word for word in target]]
    code, line = command(monkeypatch, capsys, main, *words)
    assert code == 2
    assert line.startswith("error: 3 of 5 shards cannot be read (")
    for name in ("00001.tar is damaged", "00003.tar is damaged", "00004.tar.gz is compressed; unpack it"):
        assert name in line
    assert line.endswith("restore them, or add --skip-damaged to leave out what cannot be read")
    where = tmp_path / "out" if target else damaged
    assert not (where / "index.json").exists()

    assert command(monkeypatch, capsys, main, *words, "--skip-damaged")[0] == 0
    index = load(where)
    assert index.num_images == {"train": 10}
    assert [name.partition(" ")[0] for name in index.skipped["shard that cannot be read"].names] == [
        "00001.tar", "00003.tar", "00004.tar.gz",
    ]  # fmt: skip
    if "--keep" in target:
        assert sorted(path.name for path in where.iterdir()) == ["00000.tar", "00002.tar", "index.json"]


def test_compressed_shards_alone_are_no_empty_folder(tmp_path):
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(b"x"))
    for refused in (lambda: pack(tmp_path, tmp_path.with_name("out"), SMALL), lambda: index_folder(tmp_path)):
        with pytest.raises(ValueError, match=r"0\.tar\.gz is compressed; unpack it"):
            refused()


def test_all_shards_that_changed_are_named_at_once(tmp_path, monkeypatch, capsys):
    folder = foreign_folder(tmp_path / "d", num_shards=4)
    (folder / "00001.tar").unlink()
    with (folder / "00002.tar").open("ab") as file:
        file.write(b"\0")
    code, line = command(monkeypatch, capsys, index_main, folder)
    assert code == 2
    assert "00001.tar is missing; " in line
    assert "00002.tar has " in line
    for name in ("00001.tar", "00002.tar"):
        (folder / name).write_bytes(bytes(next(s.bytes for s in load(folder).shards if s.name == name)))
    code, line = command(monkeypatch, capsys, index_main, folder)
    assert (code, line.count("was changed (sha256 differs from index.json)")) == (2, 2)
