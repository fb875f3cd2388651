"""What packing promises: the same bytes, nothing half-written, a stable split, no picture enlarged in silence."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.cli import run
from data.index import load
from data.index.items import Item
from data.pack.__main__ import main
from data.pack.layout import held_out, lay_out
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.pack.write import PACKING, Shard
from data.read.shards import read_split
from data.resize import RESIZE_VERSION, downsample
from data.shapes import write_folder
from data.tar import stream
from tests.full_disk import full_disk

from .conftest import SIDE, png, stand_in

ROOT = Path(__file__).parents[2]


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def keys_of(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [key for key, _ in stream(file, path.name)]


def test_pixels_are_those_of_the_one_downsample(shapes, tmp_path):
    pack(shapes, tmp_path / "out", PackSettings(size=16))
    batch = next(read_split(tmp_path / "out", "train", batch=96, resolution=16))
    for key, got in zip(batch.keys, batch.image, strict=True):
        image = torch.from_numpy(np.array(Image.open(shapes / f"{key}.png"))).permute(2, 0, 1)[None]
        want = (downsample(image.float() / 127.5 - 1, (16, 16)) + 1) * 127.5
        torch.testing.assert_close(got[None].float(), want, rtol=0, atol=0.501)


def test_the_same_bytes_for_any_number_of_workers(shapes, tmp_path):
    for workers in (0, 2):
        pack(shapes, tmp_path / str(workers), PackSettings(size=16, shards=3, val=0.2), workers=workers)
    got = bytes_of(tmp_path / "0")
    assert sorted(got) == ["index.json", *(f"train-0000{k}.tar" for k in range(3)), "val-00000.tar"]
    assert got == bytes_of(tmp_path / "2")


def test_another_seed_is_another_order_of_the_same_pictures(shapes, tmp_path):
    orders = []
    for seed in (0, 1):
        pack(shapes, tmp_path / str(seed), PackSettings(size=16, shards=2, seed=seed))
        orders.append([k for path in sorted((tmp_path / str(seed)).glob("*.tar")) for k in keys_of(path)])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_shards_are_mixtures_of_equal_size(tmp_path):
    for label in "ab":
        (tmp_path / "src" / label).mkdir(parents=True)
        for k in range(64):
            (tmp_path / "src" / label / f"{k}.png").write_bytes(png())
    index = pack(tmp_path / "src", tmp_path / "out", PackSettings(size=8))
    assert [shard.num for shard in index.shards] == [8] * 16
    for path in (tmp_path / "out").glob("*.tar"):
        assert len({key[0] for key in keys_of(path)}) == 2  # by chance alone 2 ** -7 a shard; the order is fixed


@pytest.mark.parametrize(("num", "shards"), [(5, 5), (40, 16), (16_001, 32)])
def test_number_of_shards(num, shards):
    items = [Item(f"{k}", f"{k}", None) for k in range(num)]
    plan = lay_out(items, PackSettings())
    assert len(plan) == shards
    assert sum(len(part) for _, _, part in plan) == num
    assert max(len(part) for _, _, part in plan) <= 1000


def test_the_split_of_a_key_never_changes(tmp_path):
    few, many = write_folder(tmp_path / "few", 60, 32), write_folder(tmp_path / "many", 240, 20)
    pack(few, tmp_path / "a", PackSettings(size=32, val=0.25))
    index = pack(many, tmp_path / "b", PackSettings(size=16, val=0.25, seed=9, limit=200))
    small, large = set(keys_of(tmp_path / "a/val-00000.tar")), set(keys_of(tmp_path / "b/val-00000.tar"))
    held = {f"{k:06d}" for k in range(240) if held_out(f"{k:06d}", 0.25)}
    assert small == held & {f"{k:06d}" for k in range(60)}
    assert large < held
    assert 35 < index.num_images["val"] < 65
    assert index.num_images["train"] + index.num_images["val"] == 200
    assert held > {f"{k:06d}" for k in range(240) if held_out(f"{k:06d}", 0.1)}


def test_smaller_pictures_are_skipped_unless_enlarged(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (src / "large.png").write_bytes(png(size=(40, 33)))
    (src / "small.png").write_bytes(png(size=(40, 31)))
    index = pack(src, tmp_path / "a", PackSettings(size=32))
    assert index.num_images == {"train": 1}
    assert index.skipped["smaller than --size"].names == ["small.png"]
    assert pack(src, tmp_path / "b", PackSettings(size=32, upscale=True)).num_images == {"train": 2}
    with pytest.raises(ValueError, match="all 2 pictures are smaller than --size 64"):
        pack(src, tmp_path / "c", PackSettings(size=64))


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_pad_keeps_all_of_the_picture(tmp_path, format):
    src = tmp_path / "src"
    src.mkdir()
    (src / "wide.png").write_bytes(png((250, 0, 0), (64, 32)))
    pack(src, tmp_path / "out", PackSettings(size=32, resize="pad", background="#0000ff", format=format))
    image = next(read_split(tmp_path / "out", "train", batch=1, resolution=32)).image[0]
    np.testing.assert_allclose(image[:, 16, :].T, [(250, 0, 0)] * 32, atol=9)
    np.testing.assert_allclose(image[:, [2, 29], :].permute(1, 2, 0).reshape(-1, 3), [(0, 0, 255)] * 64, atol=9)


def test_resize_none_keeps_sizes_and_says_so(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for k, size in enumerate([(40, 30), (28, 50)]):
        (src / f"{k}.png").write_bytes(png(size=size))
    index = pack(src, tmp_path / "out", PackSettings(resize="none"))
    assert (index.size, index.min_side) == (None, 28)


def test_index_tells_what_was_done(shapes, packed):
    index = load(packed)
    assert index.resize == RESIZE_VERSION
    assert index.settings["text_encoder"] == "stand-in"
    assert index.settings["size"] == SIDE
    assert (index.text_encoder.id, index.text_encoder.dim) == ("stand-in-1", 4)
    assert sum(index.label_counts.values()) == 96
    labels = Counter(json.loads(line)["label"] for line in (shapes / "metadata.jsonl").read_text().splitlines())
    assert index.label_counts == dict(sorted(labels.items()))
    for shard in index.shards:
        content = (packed / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_an_encoder_needs_captions(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.png").write_bytes(png())
    with pytest.raises(
        ValueError, match=r"no readable picture \(1 no caption \(--text-column names their column\): a\.png"
    ):
        pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, text_encoder="stand-in"))


def test_bad_pictures_are_counted_and_too_many_are_an_error(tmp_path):
    src = write_folder(tmp_path / "src", 19, 20)
    whole = (src / "000003.png").read_bytes()
    (src / "000003.png").write_bytes(whole[: len(whole) // 2])
    index = pack(src, tmp_path / "out", PackSettings(size=16, max_bad=0.06))
    assert index.num_images == {"train": 18}
    (reason,) = index.skipped
    assert reason == "broken PNG picture"
    assert index.skipped[reason].names[0].startswith("000003.png (")
    with pytest.raises(ValueError, match=r"1 of 19 pictures are bad, .*000003\.png"):
        pack(src, tmp_path / "strict", PackSettings(size=16, max_bad=0.05))
    for path in src.glob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="no readable picture"):
        pack(src, tmp_path / "none", PackSettings(size=16, max_bad=1.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "src"]


def test_running_again_is_free_and_other_content_is_refused(shapes, tmp_path):
    out = tmp_path / "out"
    first = pack(shapes, out, PackSettings(size=16))
    stamp = (out / "index.json").stat().st_mtime_ns
    assert pack(shapes, out, PackSettings(size=16)) == first
    assert (out / "index.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds something else; .* --overwrite"):
        pack(shapes, out, PackSettings(size=12))
    (out / "mine.txt").write_text("keep me")
    assert pack(shapes, out, PackSettings(size=12, shards=2), overwrite=True).size == (12, 12)
    assert sorted(p.name for p in out.iterdir()) == ["index.json", "mine.txt", "train-00000.tar", "train-00001.tar"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something else"):
        pack(shapes, tmp_path / "full", PackSettings())


def test_targets_that_cannot_be(shapes, tmp_path):
    for target in (shapes, shapes / "out", shapes.parent):
        with pytest.raises(ValueError, match="lie within each other"):
            pack(shapes, target, PackSettings(size=16))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        pack(shapes, tmp_path / "file", PackSettings(size=16))
    with pytest.raises(ValueError, match=r"this folder cannot be made .*: Not a directory"):
        pack(shapes, tmp_path / "file" / "below", PackSettings(size=16))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing_and_the_next_one_finishes(shapes, tmp_path, monkeypatch, error):
    pack(shapes, tmp_path / "want", PackSettings(size=16, shards=4))
    add, calls = Shard.add, []

    def failing(self, key, sample):
        calls.append(key)
        if len(calls) == 60:
            raise error
        add(self, key, sample)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "add", failing)
        with pytest.raises((KeyboardInterrupt, OSError)):
            pack(shapes, tmp_path / "out", PackSettings(size=16, shards=4))
    assert not (tmp_path / "out").exists()
    pack(shapes, tmp_path / "out", PackSettings(size=16, shards=4))
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "want")


def test_a_failed_overwrite_leaves_the_old_data_set(shapes, tmp_path, monkeypatch):
    pack(shapes, tmp_path / "out", PackSettings(size=16, shards=4))
    before = bytes_of(tmp_path / "out")
    monkeypatch.setattr("data.pack.packer.save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(shapes, tmp_path / "out", PackSettings(size=12), overwrite=True)
    assert bytes_of(tmp_path / "out") == before


def test_the_next_run_takes_over_what_a_killed_run_left(shapes, tmp_path):
    pack(shapes, tmp_path / "want", PackSettings(size=16, shards=4))
    for left in ([], ["train-00000.tar", "train-00007.tar"]):  # killed while building; while moving into place
        out = tmp_path / f"out{len(left)}"
        shutil.copytree(tmp_path / "want", out / PACKING)
        for name in left:
            (out / name).write_bytes(b"old")
        pack(shapes, out, PackSettings(size=16, shards=4))
        assert bytes_of(out) == bytes_of(tmp_path / "want")


@pytest.mark.parametrize("moves", range(5))
def test_a_data_set_has_no_index_before_it_is_whole(shapes, tmp_path, monkeypatch, moves):
    pack(shapes, tmp_path / "want", PackSettings(size=16, shards=4))
    replace, done = os.replace, []

    def killed(source, target):
        if Path(target).parent == tmp_path / "out":  # into place, not within the folder that is built
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("data.pack.write.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(shapes, tmp_path / "out", PackSettings(size=16, shards=4))
    with pytest.raises(ValueError, match=r"index\.json|no shards"):
        load(tmp_path / "out")
    pack(shapes, tmp_path / "out", PackSettings(size=16, shards=4))
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "want")


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pack", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        run(main)
    return exit.value.code


def test_command_line_packs_and_reports(shapes, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, shapes, tmp_path / "out", "--size", "16", "--val", "0.1") == 0
    out = capsys.readouterr().out
    num = load(tmp_path / "out").num_images
    assert f"{num['train']} pictures in 16 train shards, 16 x 16 px" in out
    assert f"{num['val']} pictures in 1 val shards" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "-3"], "--size -3 is out of range"),
        (["--resize", "stretch"], "--resize 'stretch' is not one of center_crop, pad, none"),
        (["--text-tokens", "1"], "--text-tokens 1 is out of range; give 2 to 512"),
        (["--format", "bmp"], "--format 'bmp'"),
        (["--background", "whitish"], "--background 'whitish' is no colour"),
        (["--val", "1.5"], "--val 1.5 is out of range"),
        (["--val", "nan"], "--val nan is out of range"),
        (["--label-column", "grp"], "--label-column 'grp' is not in metadata.jsonl, which has color, file_name"),
        (["--source", "zip"], "--source 'zip' is not one of"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(shapes, tmp_path, monkeypatch, capsys, words, says):
    assert command(monkeypatch, shapes, tmp_path / "out", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert not (tmp_path / "out").exists()


def test_unknown_options_exit_2(shapes, tmp_path, monkeypatch):
    assert command(monkeypatch, shapes, tmp_path / "out", "--sise", "16") == 2
    assert command(monkeypatch, shapes) == 2


def test_a_full_disk_is_told_with_place_room_and_fix_and_leaves_nothing(shapes, tmp_path, monkeypatch, capsys):
    with full_disk(5000):
        assert command(monkeypatch, shapes, tmp_path / "out", "--size", "24", "--workers", "0", "--shards", "1") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'out'}: File too large (")
    assert line.endswith(" GB free); make room there, or choose a place on another disk")
    assert not (tmp_path / "out").exists()


def test_libraries_are_imported_before_there_is_a_folder(shapes, tmp_path):
    """A stop in the midst of an import ends the process at once, and would leave the folder."""
    command = f"""
import sys
from pathlib import Path

def told(event, arguments):
    if event == "os.mkdir" and str(arguments[0]).endswith("packing.part"):
        print(*(name for name in ("torch", "webdataset.writer") if name in sys.modules))

sys.addaudithook(told)
from data.pack.packer import pack
from data.pack.settings import PackSettings
pack(Path({str(shapes)!r}), Path({str(tmp_path / "out")!r}), PackSettings(size=8), workers=0)
"""
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "torch webdataset.writer"


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 0), (signal.SIGHUP, 1)]
)
def test_a_real_interrupt_ends_with_130_and_leaves_nothing(tmp_path, told, workers):
    """Ctrl-C; or a scheduler, or a terminal that closes, which tell the whole process group."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "0.png").write_bytes(png(size=(900, 900), mode="RGB"))
    for k in range(1, 3000):
        os.link(src / "0.png", src / f"{k}.png")
    job = subprocess.Popen(
        [sys.executable, "-m", "data.pack", src, tmp_path / "out", "--workers", str(workers)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*/*.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(job.pid, told) if told == signal.SIGINT else os.killpg(job.pid, told)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
