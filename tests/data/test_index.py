"""The index notices everything: each way to lose a sample is tried on tars with an index and on tars that get one."""

import json
import shutil
import sys
import tarfile
from itertools import islice
from pathlib import Path

import pytest

from data.cli import run
from data.index import check_files, load, save
from data.index.tally import index_folder, main, verify
from data.read.shards import Reader, read_split

from .conftest import foreign_folder, make_tar, png, reindex

SHARD = "00001.tar"


def second_header(content: bytes) -> int:
    """Where the header of the second sample's first member is."""
    return content.index(b"000010001.jpg")


def cut_in_data(content: bytes) -> bytes:
    return content[: second_header(content) + 700]


def cut_in_header(content: bytes) -> bytes:
    return content[: second_header(content) + 100]


def cut_on_boundary(content: bytes) -> bytes:
    return content[: second_header(content)]


def no_bytes(content: bytes) -> bytes:
    return b""


def flip_header(content: bytes) -> bytes:
    at = second_header(content) + 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def flip_data(content: bytes) -> bytes:
    at = second_header(content) + 512 + 300
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def garbage(content: bytes) -> bytes:
    return b"\x07" * len(content)


def huge_member(content: bytes) -> bytes:
    at = second_header(content)
    info = tarfile.TarInfo.frombuf(content[at : at + 512], "utf-8", "strict")
    info.size = 8 << 30
    return content[:at] + info.tobuf(tarfile.GNU_FORMAT) + content[at + 512 :]


def end_in_the_middle(content: bytes) -> bytes:
    at = second_header(content)
    return content[:at] + bytes(1024) + content[at:]


def swap_two_samples(content: bytes) -> bytes:
    """The same members, bytes and count, in another order: only the hash can tell."""
    first, second = content.index(b"000010000.jpg"), second_header(content)
    third = content.index(b"000010002.jpg")
    return content[:first] + content[second:third] + content[first:second] + content[third:]


DAMAGES = [cut_in_data, cut_in_header, cut_on_boundary, no_bytes, flip_header, garbage, huge_member]
CHANGES = [*DAMAGES, flip_data, end_in_the_middle, swap_two_samples]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("same_length", [False, True])
def test_a_changed_shard_is_named_by_every_reader(tmp_path, change, same_length):
    folder = foreign_folder(tmp_path / "d")
    path = folder / SHARD
    whole = path.read_bytes()
    changed = change(whole)
    path.write_bytes(changed.ljust(len(whole), b"\0") if same_length else changed)
    index = load(folder)

    with pytest.raises(ValueError, match=SHARD):
        verify(folder, index)
    with pytest.raises(ValueError, match=SHARD):
        list(read_split(folder, "train", batch=4, resolution=24))
    with pytest.raises(ValueError, match=SHARD):
        list(islice(Reader(places=folder, batch=4, resolution=24, streams=2).batches(), 5))


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_tar_gets_no_index(tmp_path, change):
    folder = foreign_folder(tmp_path / "d", index=False)
    (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))
    with pytest.raises(ValueError, match=rf"{SHARD} is damaged"):
        index_folder(folder)


def test_a_shard_that_is_missing_or_of_another_length_is_found_when_opening(tmp_path):
    folder = foreign_folder(tmp_path / "d")
    with (folder / SHARD).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=rf"{SHARD} has \d+ bytes, index.json says \d+"):
        Reader(places=folder, batch=2, resolution=24, streams=2)
    (folder / SHARD).unlink()
    with pytest.raises(ValueError, match=rf"{SHARD} is missing"):
        Reader(places=folder, batch=2, resolution=24, streams=2)


def test_index_of_foreign_tars(tmp_path):
    folder = foreign_folder(tmp_path / "d", num_shards=3)
    index = load(folder)
    assert [(shard.name, shard.split, shard.num) for shard in index.shards] == [
        (f"0000{k}.tar", "train", 5) for k in range(3)
    ]
    assert index.num_images == {"train": 15}
    assert (index.size, index.min_side, index.resize) == ((24, 24), 24, None)
    assert (index.has_text, index.classes, index.text_encoder) == (True, None, None)
    assert (folder / "index.json.part").exists() is False


def test_splits_are_told_by_name(tmp_path):
    for name in ("train-0.tar", "val-0.tar", "validation/0.tar", "test/0.tar", "other.tar"):
        make_tar(tmp_path / name, [("a.png", png()), ("a.cls", b"2")])
    index = reindex(tmp_path)
    assert index.num_images == {"test": 1, "train": 2, "val": 2}
    assert (index.classes, index.label_counts) == (["0", "1", "2"], {"0": 0, "1": 0, "2": 5})
    with pytest.raises(ValueError, match="no split 'vall', only test, train, val"):
        index.split("vall")


def test_incomplete_samples_stay_in_the_count_and_are_named(tmp_path):
    members = [("a.jpg", png(format="JPEG")), ("b.json", b"{}"), ("c.jpg", png(format="JPEG")), ("d.png", b"junk")]
    make_tar(tmp_path / "0.tar", members)
    index = reindex(tmp_path)
    assert index.num_images == {"train": 4}
    assert {why: s.names for why, s in index.skipped.items()} == {
        "no picture": ["0.tar/b"],
        "no JPEG, PNG, WEBP picture": ["0.tar/d"],
    }


def test_tars_without_pictures_or_with_repeated_members_are_refused(tmp_path):
    make_tar(tmp_path / "a" / "0.tar", [("a.json", b"{}")])
    with pytest.raises(ValueError, match="has no picture in 1 shards"):
        index_folder(tmp_path / "a")
    make_tar(tmp_path / "b" / "0.tar", [("a.png", png()), ("a.png", png())])
    with pytest.raises(ValueError, match=r"0\.tar has a key twice \(a\.png: duplicate file name"):
        index_folder(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=r"has no \.tar"):
        index_folder(tmp_path / "c")


def test_load_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"does not exist; make it with: python -m data\.pack"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no shards"):
        load(tmp_path)
    folder = foreign_folder(tmp_path / "d", index=False)
    with pytest.raises(ValueError, match=r"shards but no index\.json; make it with: python -m data\.index"):
        load(folder)
    reindex(folder)
    assert load(folder) == load(folder / "index.json")


def edited(folder: Path, **changes) -> None:
    fields = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(fields | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 99}, "version 99, this program reads 1"),
        ({"fingerprint": "0" * 64}, "fingerprint is not that of the shards"),
        ({"num_images": {"train": 11}}, "num_images is not the sum"),
        ({"size": "large"}, "size: .*array"),
        ({"min_side": "24"}, "min_side: .*integer"),
        ({"extra_field": 1}, "extra_field: .*not permitted"),
        ({"shards": [{"name": "../x.tar", "split": "train", "num": 1, "bytes": 1, "sha256": "0" * 64}]}, "leaves the"),
        ({"shards": [{"name": "/x.tar", "split": "train", "num": 1, "bytes": 1, "sha256": "0" * 64}]}, "leaves the"),
    ],
)
def test_an_edited_index_is_refused_in_one_line(tmp_path, changes, says):
    folder = foreign_folder(tmp_path / "d")
    edited(folder, **changes)
    with pytest.raises(ValueError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "null"])
def test_an_index_that_is_no_index(tmp_path, content):
    folder = foreign_folder(tmp_path / "d")
    (folder / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json"):
        load(folder)


def test_a_shard_name_is_a_path_and_nothing_else(tmp_path):
    folder = foreign_folder(tmp_path / "d")
    index = load(folder)
    for name in (f"pipe:touch {tmp_path}/owned", "pipe:touch owned |", "${HOME}.tar"):
        shards = [index.shards[0].model_copy(update={"name": name.replace("/", "_")})]
        with pytest.raises(ValueError, match="is missing"):
            check_files(folder, shards)
    assert not list(tmp_path.rglob("owned"))


def command(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["index", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        run(main)
    return exit.value.code


def test_the_command_line_makes_checks_and_updates_an_index(tmp_path, monkeypatch, capsys):
    folder = foreign_folder(tmp_path / "d", index=False)
    assert command(monkeypatch, folder) == 0
    first = (folder / "index.json").read_bytes()
    assert command(monkeypatch, folder) == 0  # nothing changed
    assert (folder / "index.json").read_bytes() == first
    shutil.copy(folder / "00000.tar", folder / SHARD)
    capsys.readouterr()
    assert command(monkeypatch, folder) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert SHARD in error
    assert "--update" in error
    assert command(monkeypatch, folder, "--update") == 0
    assert load(folder).shards[0].sha256 == load(folder).shards[1].sha256


def test_update_keeps_what_tars_cannot_tell(packed, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(packed, folder)
    before = load(folder)
    gone = before.shards[0]
    (folder / gone.name).unlink()
    index = index_folder(folder, before)
    save(index, folder)
    assert load(folder).num_images == {"train": 96 - gone.num}
    for field in ("classes", "text_encoder", "resize", "settings", "size"):
        assert getattr(index, field) == getattr(before, field)
    assert index.fingerprint != before.fingerprint
