"""The two command lines from end to end, and what they say about bad input: exit 2, one line, nothing half-written.

Commands run in this process through the same wrapper as on the command line; only interrupts need a process of their own.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sample
import train
from cascade.cli import lines_of
from cascade.output.pictures import levels_apart, read_metadata, read_png
from data.cli import run
from data.files import file_sha256
from data.pack.packer import pack
from data.pack.settings import Settings
from data.shapes import write_folder
from tests.bare import bare_site
from tests.calling import call

ROOT = Path(__file__).parents[1]
SMALL = """
name: small
stages:
  base_8:
    kind: base
    resolution: 8
    net: &net {widths: [8, 16], blocks: [1, 1], emb_dim: 16}
    cond: &cond {num_classes: 6}
    train: &train {images: 32, batch: 8, workers: 0, warmup: 0, ema: [16], precision: fp32, compile: false,
                   save_every: 16, log_every: 8, grid_every: 32}
    sample: &sample {num_steps: 2, sigma_max: 5.0, sigma_min: 0.02}
  sr_16:
    kind: super_res
    resolution: 16
    low_res: 8
    net: *net
    cond: *cond
    train: *train
    sample: *sample
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """64 shapes at 16 px in 8 shards, six classes; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    pack(write_folder(folder / "shapes", 64, 16), folder / "shards", Settings(size=16, shards=8), workers=0)
    return folder / "shards"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The YAML of a cascade that trains in a second."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def trained(shards, small, tmp_path_factory):
    """The --out of two finished runs; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    for stage in ("base_8", "sr_16"):
        assert call(train.main, small, stage, "--data", shards, "--out", out) == 0
    return out


@pytest.fixture
def folder(trained, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(trained, tmp_path / "spoilt")


@pytest.fixture
def refused(capsys):
    """Calls a command that must fail with exit 2 and one line; gives the line."""

    def call_it(main, *arguments) -> str:
        capsys.readouterr()
        code = call(main, *arguments)
        lines = capsys.readouterr().err.splitlines()
        assert code == 2, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return call_it


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture that is whole."""
    with Image.open(path) as image:
        image.load()
        return image.size


def picture(path: Path, side: int) -> Path:
    Image.new("RGB", (side, side), (200, 30, 30)).save(path)
    return path


# the whole way


def test_a_run_leaves_bundle_log_and_sample_grids(trained):
    assert json.loads((trained / "cascade.json").read_text())["name"] == "small"
    for stage in ("base_8", "sr_16"):
        found = files(trained / stage)
        wanted = ("config.json", "environment.json", "metrics.jsonl", "bundle/stage.json", "bundle/ema.safetensors")
        assert set(wanted) <= set(found)
        assert "samples/nimg-0000000032.png" in found
        assert not [name for name in found if name.endswith((".part", ".tmp"))]
        lines = [json.loads(line) for line in (trained / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["nimg"] for line in lines] == [8, 16, 24, 32]


def test_magnitudes_are_logged_where_they_are_asked_for(trained, small, shards, tmp_path):
    assert call(train.main, small, "base_8", "--data", shards, "--out", tmp_path, "--norms") == 0
    logged = (tmp_path / "base_8" / "metrics.jsonl").read_text()
    assert '"weight_rms/net.conv_in.weight"' in logged
    assert '"activation_rms/net"' in logged
    assert "_rms/" not in (trained / "base_8" / "metrics.jsonl").read_text()


def test_the_same_command_again_has_nothing_to_do(trained, small, shards, capsys):
    before = [path.stat().st_mtime_ns for path in sorted((trained / "base_8" / "bundle").iterdir())]
    assert call(train.main, small, "base_8", "--data", shards, "--out", trained) == 0
    assert "nothing to do, 32 of 32 images are done" in capsys.readouterr().out
    assert before == [path.stat().st_mtime_ns for path in sorted((trained / "base_8" / "bundle").iterdir())]


@pytest.mark.parametrize("flag", ["--local_rank", "--local-rank"])
def test_options_that_launchers_add_are_accepted(trained, small, shards, capsys, flag):
    assert call(train.main, small, "base_8", "--data", shards, "--out", trained, flag, "0") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_pictures_from_the_command_line(trained, tmp_path, capsys):
    arguments = (
        "--cascade",
        trained,
        "--num",
        3,
        "--label",
        "ring",
        "--label",
        "0",
        "--steps",
        "sr_16=1",
        "--batch",
        4,
    )
    assert call(sample.main, *arguments, "--out", tmp_path / "grid.png") == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "grid.png")]
    assert size_of(tmp_path / "grid.png") == (3 * 18 + 2, 2 * 18 + 2)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/single/", "--stages-out") == 0
    assert files(tmp_path / "single") == sorted(f"{k:06d}{s}.png" for k in range(6) for s in ("", ".base_8"))
    said = read_metadata(tmp_path / "single" / "000003.png")
    assert said["labels"] == [0]
    assert said["stages"]["sr_16"]["settings"]["num_steps"] == 1


def test_a_picture_of_the_user_s_own_becomes_factor_times_larger(trained, tmp_path, capsys):
    low = tmp_path / "low.png"
    Image.new("RGB", (24, 10), (30, 200, 30)).save(low)
    arguments = ("--cascade", trained, "--image", low)
    assert call(sample.main, *arguments, "--out", tmp_path / "large.png") == 0
    assert size_of(tmp_path / "large.png") == (48, 20)
    assert list(read_metadata(tmp_path / "large.png")["stages"]) == ["sr_16"]
    assert call(sample.main, *arguments, "--fit", "--num", 1, "--out", tmp_path / "fitted.png") == 0
    assert size_of(tmp_path / "fitted.png") == (38, 16)  # twice 19x8, which is 24x10 with a shorter side of 8
    again = ("--cascade", trained, "--image", low, "--again", tmp_path / "fitted.png", "--out", tmp_path / "again.png")
    assert call(sample.main, *again) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "fitted.png").read_bytes()


@pytest.mark.matrix
def test_a_photograph_becomes_factor_times_larger(trained, tmp_path):
    """1000x700: in windows, and the result is that of a window alone where it is far from the window's edges."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (700, 1000, 3), generator=generator).to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    Image.fromarray(pixels.flip(1).numpy()).save(tmp_path / "other.png")
    arguments = ("--cascade", trained, "--steps", 1, "--out", f"{tmp_path}/large/")
    assert call(sample.main, *arguments, "--image", tmp_path / "photo.png", "--image", tmp_path / "other.png") == 0
    assert files(tmp_path / "large") == ["other.png", "photo.png"]
    assert size_of(tmp_path / "large" / "photo.png") == (2000, 1400)


def test_a_folder_of_pictures(trained, tmp_path, capsys):
    """Each is what it is alone; one that cannot be read stops no other and is told; the same again makes only what is missing."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, name in enumerate(("b.png", "a.jpg", "a.png")):
        picture(photos / name, 8 + number)
    Image.effect_noise((64, 64), 90).save(photos / "c.png")
    os.truncate(photos / "c.png", 600)
    (photos / "notes.txt").write_text("no picture")
    arguments = ("--cascade", trained, "--image", photos, "--label", "ring", "--out", f"{tmp_path}/out/")
    assert call(sample.main, *arguments) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{tmp_path}/out/{name}" for name in ("a.jpg.png", "a.png.png", "b.png")]
    assert said.err.splitlines()[-1].startswith(
        "error: 1 of 4 pictures could not be made larger, the others are done: "
    )
    assert "c.png: broken PNG picture" in said.err
    assert [size_of(tmp_path / "out" / name) for name in files(tmp_path / "out")] == [(18, 18), (20, 20), (16, 16)]
    alone = ("--cascade", trained, "--image", photos / "b.png", "--label", "ring", "--out", f"{tmp_path}/alone/")
    assert call(sample.main, *alone) == 0
    assert (tmp_path / "alone" / "b.png").read_bytes() == (tmp_path / "out" / "b.png").read_bytes()
    (photos / "c.png").unlink()
    (tmp_path / "out" / "b.png").unlink()
    capsys.readouterr()
    assert call(sample.main, *arguments) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/out/b.png"]


def test_a_folder_of_all_kinds_of_files(trained, tmp_path, capsys):
    """What is not read is counted by reason, all faults are told at the end, the rest is made; lines count the pictures."""
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    picture(photos / "deep" / "er" / "a.png", 8)
    for name in ("b.png", "d.png", "f.png"):
        picture(photos / name, 8)
    for name in ("a.png", "c.png", "notes.txt", ".hidden.png"):
        (photos / name).write_text("no picture")
    picture(photos / "e.png", 7)
    os.mkfifo(photos / "pipe.png")
    prompts = [word for label in range(6) for word in ("--label", label)]
    arguments = (
        "--cascade",
        trained,
        "--fit",
        "--image",
        photos,
        "--image",
        photos / "b.png",
        "--out",
        f"{tmp_path}/out/",
    )
    assert call(sample.main, *arguments, *prompts) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out.splitlines() == [f"{tmp_path}/out/{name}.png" for name in "bdf"]
    assert lines[:2] == [
        f"--image {photos}: 6 pictures; not read are 1 hidden, 1 sub-folders, 1 of other kinds, 1 no plain files "
        "(with 1 pictures; name such a folder with another --image)",
        f"--image {photos}/b.png: given 2 times, made once; --num 2 makes several of each",
    ]
    assert lines[2:5] == [
        f"{n} of 6, {name}: sr_16: images 0 to 0 of 1 done" for n, name in ((2, "b"), (4, "d"), (6, "f"))
    ]
    assert lines[5].startswith("error: 3 of 6 pictures could not be made larger, the others are done: ")
    assert [name for name in "abcdef" if f"/{name}.png: " in lines[5]] == ["a", "c", "e"]
    assert len(lines) == 6
    assert [read_metadata(tmp_path / "out" / f"{name}.png")["labels"] for name in "bdf"] == [[1], [3], [5]]
    assert call(sample.main, *arguments, *prompts) == 2
    assert capsys.readouterr().err.splitlines()[3] == "4 of 6, d: nothing to do: the image is there"


def test_a_folder_of_which_nothing_can_be_made(trained, tmp_path, refused):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    line = refused(sample.main, "--cascade", trained, "--image", tmp_path, "--out", f"{tmp_path}/out/")
    assert [name for name in "ab" if f"/{name}.png: no JPEG" in line] == ["a", "b"]
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, 8)
    arguments = ("--cascade", trained, "--image", tmp_path, "--out", f"{tmp_path}/out/")
    assert refused(sample.main, *arguments, "--num", 2, "--pick", 7).count("out of range") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_wandb_leaves_no_run(small, shards, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = refused(train.main, small, "base_8", "--data", shards, "--out", tmp_path / "runs", "--wandb", "mine")
    assert "--wandb needs the package wandb" in line
    assert not (tmp_path / "runs").exists()


def test_the_same_command_twice_and_another_one(trained, tmp_path, capsys, refused):
    for place in ("out.png", "new/"):
        arguments = ("--cascade", trained, "--num", 3, "--out", f"{tmp_path}/{place}")
        assert call(sample.main, *arguments) == 0
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        capsys.readouterr()
        assert call(sample.main, *arguments) == 0
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "nothing to do: all 3 images are there\n")
        line = refused(sample.main, *arguments, "--seed", 1)
        assert "is there and is of a request with other seed; choose another place, or --overwrite" in line
        assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        assert call(sample.main, *arguments, "--seed", 1, "--overwrite") == 0
        assert before.keys() == set(files(tmp_path))
        assert before != {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}


def test_picked_pictures_are_those_of_the_whole_request(trained, tmp_path, refused):
    arguments = ("--cascade", trained, "--num", 4, "--label", "ring", "--label", 0)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/all/") == 0
    assert call(sample.main, *arguments, "--pick", "2,5-6", "--out", f"{tmp_path}/some/") == 0
    assert files(tmp_path / "some") == ["000002.png", "000005.png", "000006.png"]
    for name in files(tmp_path / "some"):
        assert levels_apart(read_png(tmp_path / "some" / name), read_png(tmp_path / "all" / name)) <= 1
    assert call(sample.main, *arguments, "--pick", "2,5-6", "--out", tmp_path / "some.png") == 0
    assert size_of(tmp_path / "some.png") == (2 * 18 + 2, 2 * 18 + 2)
    assert "pick 8 is out of range; 0 to 7 are there" in refused(sample.main, *arguments, "--pick", 8)


def test_a_picture_and_a_grid_again(trained, tmp_path, refused, folder):
    arguments = ("--cascade", trained, "--num", 5, "--label", "ring", "--label", 0, "--guidance", 3, "--batch", 3)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/all/", "--stages-out") == 0
    assert call(sample.main, *arguments, "--out", tmp_path / "grid.png") == 0
    for number, name in enumerate(("all/000007.png", "all/000004.base_8.png", "grid.png")):
        again = ("--cascade", trained, "--again", tmp_path / name, "--out", tmp_path / f"{number}.png")
        assert call(sample.main, *again) == 0
        assert (tmp_path / f"{number}.png").read_bytes() == (tmp_path / name).read_bytes()
    again = ("--cascade", trained, "--again", tmp_path / "all/000007.png", "--out", tmp_path / "0.png")
    assert "0.png: is there; choose another place, or --overwrite" in refused(sample.main, *again)
    replace_weights(folder / "sr_16" / "bundle", lambda weights: weights["net.out_gain"].add_(1))
    again = ("--cascade", folder, "--again", tmp_path / "all/000007.png", "--out", tmp_path / "new.png")
    assert "name the cascade that made it with --cascade" in refused(sample.main, *again)


def test_only_the_first_stages(trained, tmp_path):
    assert call(sample.main, "--cascade", trained, "--until", "base_8", "--num", 1, "--out", f"{tmp_path}/a/") == 0
    assert size_of(tmp_path / "a" / "000000.png") == (8, 8)


def test_the_cascade_that_ships_paints_a_prompt_without_home_or_network(tmp_path, monkeypatch):
    """Its text encoder is the one that is installed, its bundles fit, and nothing is fetched."""

    def refuse(*args):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HOME", raising=False)
    arguments = ("--num", 1, "--steps", 2, "--out", f"{tmp_path}/new/")
    assert call(sample.main, "red heart", "green apple", *arguments) == 0
    assert size_of(tmp_path / "new" / "000001.png") == (64, 64)
    assert read_metadata(tmp_path / "new" / "000001.png")["prompts"] == ["green apple"]


# train.py: bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emojy", "base_16"), "cascade 'emojy': no such file and not one of emoji, emoji_tiny"),
        (("emojy", "base_16"), "did you mean emoji?"),
        (("nowhere.yaml", "base_8"), "cascade 'nowhere.yaml': no such file and not one of"),
        (("SMALL", "base_9"), "cascade small: no stage 'base_9', it has base_8, sr_16; did you mean base_8?"),
        (("SMALL", "base_8", "stages.base_8.train.learning=1"), "stages.base_8.train.learning: Extra inputs are not"),
        (("SMALL", "base_8", "stages.base_8.train.btch=8"), "did you mean batch?"),
        (
            ("SMALL", "base_8", "stages.bas_8.train.lr=1"),
            "no stage 'bas_8', it has base_8, sr_16; did you mean base_8?",
        ),
        (("SMALL", "base_8", "stage.base_8.train.lr=1"), "stage: Extra inputs are not permitted"),
        (("SMALL", "base_8", "stage.base_8.train.lr=1"), "did you mean stages?"),
        (("SMALL", "base_8", "stages.base_8.train.lr"), "write it as dotted.key=value"),
        (("SMALL", "base_8", "stages.base_8.train.lr=fast"), "train.lr: Input should be a valid number"),
        (("SMALL", "base_8", "stages.base_8.train.lr=0"), "train.lr: Input should be greater than 0"),
        (("SMALL", "base_8", "stages.base_8.train.lr=nan"), "train.lr: Input should be a finite number"),
        (
            ("SMALL", "base_8", "stages.base_8.train.batch=12", "stages.base_8.train.streams=8"),
            "batch 12 is no multiple of streams 8",
        ),
        (("SMALL", "base_8", "stages.base_8.train.micro_batch=3"), "train.micro_batch 3 does not divide 8"),
        (
            ("SMALL", "base_8", "stages.base_8.train.optimizer=adamm"),
            "train.optimizer 'adamm': Optimizer adamm not found",
        ),
        (("SMALL", "base_8", "stages.base_8.net.widths[0]=8"), "write lists whole: ...widths=[64,128]"),
        (
            ("SMALL", "base_8", "stages.base_8.kind=bass"),
            "does not match any of the expected tags: 'base', 'super_res'",
        ),
        (("SMALL", "sr_16", "stages.sr_16.low_res=4"), "stage sr_16 expects low_res 4 px, but base_8 gives 8 px"),
        (("SMALL", "sr_16", "stages.sr_16.low_res=5"), "resolution 16 must be a multiple of low_res 5"),
        (("SMALL", "base_8", "--images", "-8"), "train.images: Input should be greater than 0"),
        (("SMALL", "base_8", "--images", "many"), "Invalid value for '--images'"),
        (("SMALL", "base_8", "--engine", "horovod"), "--engine horovod: allowed are deepspeed, local and auto"),
        (("SMALL", "base_8", "--zero", "3"), "--zero, --offload and --deepspeed-file need --engine deepspeed"),
        (("SMALL", "base_8", "--timeout-s", "nan"), "--timeout-s nan: seconds above 0 are needed"),
        (("SMALL", "base_8", "--cache-gb", "nan"), "--cache-gb nan: gigabytes above 0 are needed"),
        (("SMALL", "base_8", "--allow-change", "train.rl"), "--allow-change train.rl: the config has no such key"),
        (("SMALL", "base_8", "--lower", "nowhere"), "--lower nowhere: a base stage has none below"),
        (("SMALL", "sr_16", "--lower", "nowhere"), "bundle nowhere: no stage.json there"),
        (("SMALL", "base_8", "=1"), "override '=1': write it as dotted.key=value"),
        (("SMALL", "base_8", "--dry-run", "--world", "0"), "--world 0: at least one process trains; give 1 or more"),
        (("SMALL", "base_8", "--dry-run", "--world", "-2"), "--world -2: at least one process trains; give 1 or more"),
        (("SMALL", "base_8", "--device", "gpu"), "--device gpu: allowed are cpu, cuda and auto"),
        (("SMALL", "base_8", "--imagse", "8"), "No such option: --imagse"),
        (("SMALL",), "Missing argument"),
    ],
)
def test_training_refuses_bad_arguments(refused, small, shards, tmp_path, arguments, message):
    arguments = [small if argument == "SMALL" else argument for argument in arguments]
    assert message in refused(train.main, *arguments, "--data", shards, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f), "does not exist; make it with: python -m data.pack"),
        (lambda f: [p.unlink() for p in f.iterdir()], "has no shards; make them with: python -m data.pack"),
        (lambda f: (f / "index.json").unlink(), "has shards but no index.json; make it with: python -m data.index"),
        (lambda f: (f / "index.json").write_text("{"), "index.json is not JSON"),
        (lambda f: (f / "train-00003.tar").unlink(), "train-00003.tar is missing; restore what is lost"),
        (lambda f: os.truncate(f / "train-00003.tar", 1000), "train-00003.tar has 1000 bytes, index.json says"),
    ],
)
def test_training_refuses_data(refused, small, shards, tmp_path, spoil, message):
    data = shutil.copytree(shards, tmp_path / "shards")
    spoil(data)
    assert message in refused(train.main, small, "base_8", "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.streams=16 stages.base_8.train.batch=16",
            "has 8 train shards, 16 streams are asked for; pack again with",
        ),
        ("cond.num_classes=4", "6 classes, cond.num_classes is 4; set it to 6"),
        ("cond.text={encoder: minilm, dim: 384, tokens: 8}", "has no text features; pack with --text-encoder minilm"),
        ("resolution=32 stages.sr_16.low_res=32 stages.sr_16.resolution=64", "pictures are 16 px, 32 px are needed"),
    ],
)
def test_training_refuses_data_that_do_not_suit(refused, small, shards, tmp_path, override, message):
    overrides = f"stages.base_8.{override}".split(" stages.")
    arguments = [overrides[0], *(f"stages.{rest}" for rest in overrides[1:])]
    assert message in refused(train.main, small, "base_8", *arguments, "--data", shards, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file/x", "/proc/x"])
def test_training_refuses_a_folder_that_cannot_be_written(refused, small, shards, tmp_path, out):
    (tmp_path / "file").write_text("")
    line = refused(train.main, small, "base_8", "--data", shards, "--out", tmp_path / out)
    assert str(tmp_path / out) in line


def test_training_needs_both_folders(refused, small, tmp_path):
    assert "train.py needs --data SHARDS (from data.pack) and --out FOLDER" in refused(train.main, small, "base_8")


def test_training_leaves_another_run_alone(refused, small, shards, folder):
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    arguments = (small, "base_8", "--data", shards, "--out", folder)
    line = refused(train.main, *arguments, "stages.base_8.train.lr=0.5", "stages.base_8.sample.num_steps=9")
    assert (
        "holds a run of another config: train.lr was 0.03, is 0.5; restore it, choose another --out, or allow it with"
        in line
    )
    assert "holds cascade 'small', not 'other'" in refused(train.main, *arguments, "name=other")
    assert before == {name: (folder / name).read_bytes() for name in files(folder)}


@pytest.mark.parametrize("words", [("--out", ""), ("--out=",), ("--data", "", "--out", "x")])
def test_an_empty_value_is_no_folder(refused, small, words):
    assert refused(train.main, small, "base_8", *words) == (
        f"error: {words[0].rstrip('=')} has an empty value; give it one, or leave it out"
    )


# sample.py: bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cascade", "nowhere"), "cascade nowhere: no such folder; train one with: python train.py CASCADE STAGE"),
        (("a red apple",), "a prompt, but this cascade takes no text; it takes class labels (--label)"),
        (
            ("--label", "rign"),
            "--label rign: neither a number nor one of the 6 classes of the data; did you mean ring?",
        ),
        (("--label", "6"), "class 6; 0 to 5 are allowed"),
        (("--num", "0"), "num 0 is out of range"),
        (("--num", "1025"), "--num: 1025 images in one grid; at most 1024, or write single files with --out folder/"),
        (("--num", "few"), "Invalid value for '--num'"),
        (("--seed", "-1"), "seed -1 is out of range"),
        (("--batch", "0"), "batch 0 is out of range"),
        (("--size", "big"), "--size big: write WIDTHxHEIGHT"),
        (("--size", "17x16"), "17x16 px does not suit stages base_8, sr_16; choose sides that are multiples of 4"),
        (("--steps", "0"), "settings of stage base_8: num_steps: Input should be greater than or equal to 1"),
        (("--steps", "sr_61=3"), "--steps sr_61=3: no stage 'sr_61', there are base_8, sr_16; did you mean sr_16?"),
        (("--sampler", "ddim"), "sampler: Input should be 'euler', 'heun'"),
        (("--guidance", "nan"), "guidance_scale: Input should be a finite number"),
        (("--aug-sigma", "2"), "stage sr_16: aug_sigma 2.0 is above 1.0, the largest it was trained on; choose less"),
        (("--until", "sr_61"), "no stage 'sr_61', it has base_8, sr_16; did you mean sr_16?"),
        (("--from", "sr_16"), "the chain starts with sr_16, a super-resolution stage; give a picture"),
        (("--device", "tpu"), "--device tpu: allowed are auto, cpu, cuda and cuda:NUMBER"),
        (("--precision", "fp8"), "--precision fp8: allowed are fp32 and bf16"),
        (("--image", "nowhere.png"), "nowhere.png: No such file or directory"),
        (
            ("--image", "SMALL", "--fit"),
            "small.png: its shorter side is 7 px, the smallest stage takes 8 px; use a larger picture",
        ),
        (("--image", "TEXT"), "text.png: no JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF picture"),
        (("--image", "LOW", "--from", "base_8"), "--image with --from base_8: a base stage takes no picture"),
        (("--image", "LOW", "--size", "16x16"), "both a picture and a size; the picture decides the size"),
        (("--image", "EMPTY"), "empty: no picture in it (JPEG, PNG, WEBP, "),
        (("--image", "LOW", "--image", "SMALL"), "2 pictures are given; write them into a folder/"),
        (
            ("--image", "LOW", "--image", "SMALL", "--label", "0", "--label", "1", "--label", "2", "--out", "new/"),
            "2 pictures and 3 prompts or labels; give one of either, or as many of both",
        ),
        (("--pick", "16"), "pick 16 is out of range; 0 to 15 are there"),
        (("--pick", "3,3"), "pick [3, 3] names an image twice"),
        (("--again", "LOW"), "low.png: no 'cascade' text in it; sample.py did not write it"),
        (("--again", "TEXT"), "text.png: no PNG that can be read (it is of another kind, or damaged); name one that"),
        (("--again", "VOID"), "void.png: no PNG that can be read (it is empty); name one that sample.py wrote, or the"),
        (("--again", "CUT"), "cut.png: no PNG that can be read (it is of another kind, or damaged); name one"),
        (
            ("--out", "x" * 250 + ".png"),
            "would be 256 bytes long, at most 255 are allowed: the name is too long; choose",
        ),
        (("--out", ""), "--out has an empty value; give it one, or leave it out"),
        (("--out", "", "--shard-size", "2"), "--out has an empty value"),
        (
            ("--num", 10**9, "--pick", "0-999999999"),
            "--pick 0-999999999: 1,000,000,000 images are named; at most 1,000,000",
        ),
        (("a prompt", "--again", "LOW"), "--again: the picture says all other settings; leave the prompts out"),
        (("--again", "LOW", "--seed", "0", "--num", "3", "--stages-out"), "leave --num, --seed, --stages-out out"),
        (("--again", "LOW", "--shard-size", "3"), "leave --shard-size out, only these go together: --cascade, --out,"),
        (("--again", "LOW", "--image", "LOW", "--image", "SMALL"), "--again: 2 pictures with --image; give the one"),
        (("--image", "LOW", "--until", "base_8"), "stage sr_16 comes after base_8; exchange them"),
        (
            ("--out", "pictures.gif"),
            "--out pictures.gif: write a name in .png for a grid, or a folder/ for single files",
        ),
        (("--out", "TEXT/x.png"), "text.png is a file; choose another place"),
        (("--out", "/proc/pictures/"), "/proc/pictures cannot be made"),
    ],
)
def test_sampling_refuses(refused, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    picture(tmp_path / "small.png", 7)
    picture(tmp_path / "low.png", 8)
    (tmp_path / "cut.png").write_bytes((tmp_path / "low.png").read_bytes()[:20])
    (tmp_path / "void.png").touch()
    (tmp_path / "empty").mkdir()
    names = {
        "EMPTY": "empty",
        "VOID": "void.png",
        "CUT": "cut.png",
        "SMALL": "small.png",
        "TEXT": "text.png",
        "LOW": "low.png",
        "TEXT/x.png": "text.png/x.png",
    }
    given = [names.get(argument, argument) for argument in arguments]
    defaults = [] if "--cascade" in arguments else ["--cascade", trained]
    defaults += [] if "--out" in arguments else ["--out", "new/out.png"]
    assert message in refused(sample.main, *defaults, *given)
    assert files(tmp_path) == ["cut.png", "low.png", "small.png", "text.png", "void.png"]
    assert not (tmp_path / "new").exists()


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def replace_weights(bundle: Path, change) -> None:
    """A bundle whose weights are changed and whose sha256 is right all the same."""
    weights = load_file(bundle / "ema.safetensors")
    change(weights)
    save_file(weights, bundle / "ema.safetensors")
    edit(bundle / "stage.json", lambda values: values.update(sha256=file_sha256(bundle / "ema.safetensors")))


def contract(stage: str, **changes):
    return lambda folder: edit(folder / stage / "bundle" / "stage.json", lambda v: v["contract"].update(changes))


def swap_stages(values: dict) -> None:
    values["stages"] = dict(reversed(values["stages"].items()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: shutil.rmtree(f / "sr_16"),
            "stage sr_16 has no bundle yet; sample up to base_8 with --until base_8",
        ),
        (lambda f: edit(f / "cascade.json", swap_stages), "stage base_8 is a base stage but comes after sr_16; put"),
        (lambda f: (f / "cascade.json").write_text("{"), "cascade.json: not readable as JSON"),
        (lambda f: edit(f / "cascade.json", lambda v: v.update(colour=1)), "cascade.json: colour: Extra inputs"),
        (contract("sr_16", resize="pillow-1"), "stage sr_16 was trained with resize pillow-1, this version has"),
        (contract("sr_16", low_res=4), "stage sr_16 expects low_res 4 px, but base_8 gives 8 px"),
        (contract("sr_16", num_classes=7), "stage sr_16 knows 7 classes, but base_8 6"),
        (lambda f: (f / "sr_16/bundle/stage.json").unlink(), "no stage.json there; train the stage"),
        (lambda f: (f / "sr_16/bundle/ema.safetensors").unlink(), "ema.safetensors: missing; copy the bundle again"),
        (lambda f: os.truncate(f / "sr_16/bundle/ema.safetensors", 999), "its sha256 is not the one in stage.json"),
        (
            lambda f: replace_weights(f / "sr_16/bundle", lambda w: w.pop("net.out_gain")),
            "misses tensor net.out_gain (1 in all); copy the bundle again",
        ),
        (
            lambda f: replace_weights(f / "sr_16/bundle", lambda w: w.update(more=torch.ones(2))),
            "has extra tensor more (1 in all); copy the bundle again",
        ),
    ],
)
def test_sampling_refuses_a_cascade(refused, folder, tmp_path, spoil, message):
    spoil(folder)
    assert message in refused(sample.main, "--cascade", folder, "--out", tmp_path / "new" / "out.png")
    assert not (tmp_path / "new").exists()


def test_text_encoders_of_two_stages_must_be_one(refused, folder, tmp_path):
    contract("base_8", text_encoder="minilm-1")(folder)
    contract("sr_16", text_encoder="minilm-2")(folder)
    line = refused(sample.main, "--cascade", folder, "--out", tmp_path / "out.png")
    assert "stage sr_16 was trained with text encoder minilm-2, stage base_8 with minilm-1; pack the shards" in line


def test_a_pipe_that_ends_too_early_is_no_interrupt(monkeypatch):
    """The library that parses options takes every EOFError for Ctrl-D, which would hide a fault of ours behind exit code 130."""

    def main() -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr(sys, "argv", ["it"])
    with pytest.raises(RuntimeError, match="a file or a pipe ended too early") as raised:
        run(main)
    assert isinstance(raised.value.__cause__, EOFError)


# processes of their own: the first minutes, interrupts


def start(*arguments, **environment: str) -> subprocess.Popen:
    """A command in a process group of its own, as a terminal has it."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen, when, told: int = signal.SIGINT) -> list[str]:
    """Ctrl-C, or another signal to the group, as soon as when() holds; what the process said on stderr."""
    try:
        deadline = time.monotonic() + 120
        while not when():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "never came so far"
            time.sleep(0.02)
        os.killpg(process.pid, told)
        return process.communicate(timeout=30)[1].splitlines()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_minutes(tmp_path):
    """`python -m cascade.demo` with hardly any training, and with the packages of `dependencies` alone: what `uv run` installs."""
    (tmp_path / "site").mkdir()
    packages = os.pathsep.join([str(ROOT), str(bare_site(tmp_path / "site"))])
    arguments = ("-S", "-m", "cascade.demo", "--out", tmp_path / "demo", "--base-images", 64, "--sr-images", 32)
    process = start(*arguments, PYTHONPATH=packages)
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said
    assert size_of(tmp_path / "demo" / "demo.png") == (8 * 66 + 2, 4 * 66 + 2)


def test_ctrl_c_while_training_and_the_same_command_goes_on(small, shards, tmp_path):
    out = tmp_path / "out"
    arguments = (small, "base_8", "--data", shards, "--out", out, "stages.base_8.train.workers=1")
    process = start("train.py", *arguments, "--images", 10**8)
    lines = interrupt(process, lambda: list((out / "base_8" / "checkpoints").glob("nimg-*[0-9]")))
    assert process.returncode == 130
    assert lines[-1] == "interrupted"
    assert "Traceback" not in "".join(lines)
    done = max(int(path.name[5:]) for path in (out / "base_8" / "checkpoints").glob("nimg-*[0-9]"))
    assert call(train.main, *arguments[:-1], "stages.base_8.train.workers=0", "--images", done + 16) == 0
    lines = [json.loads(line) for line in (out / "base_8" / "metrics.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in lines] == list(range(8, done + 17, 8))


@pytest.mark.matrix
def test_ctrl_c_and_a_full_disk_lose_no_finished_picture_of_a_grid(trained, tmp_path):
    """It is said where they are, and the same command goes on; a grid that is too large for the disk, too."""
    out = tmp_path / "out.png"
    arguments = ("--cascade", trained, "--num", 400, "--batch", 2, "--out", out)
    process = start("sample.py", *arguments)
    parts = tmp_path / "out.parts"
    lines = interrupt(process, lambda: parts.is_dir() and len(files(parts)) > 4)
    assert process.returncode == 130
    done = len(files(parts))
    assert lines[-2:] == [f"{done} of 400 images are in {parts}; the same command goes on from there", "interrupted"]
    assert files(tmp_path) == [f"out.parts/{k:06d}.png" for k in range(done)]
    process = start("-c", FULL, "sample.py", *arguments)
    lines = process.communicate(timeout=300)[1].splitlines()
    assert process.returncode == 2
    assert lines[-2] == f"400 of 400 images are in {parts}; the same command goes on from there"
    assert "File too large" in lines[-1]
    assert len(files(tmp_path)) == 400
    assert call(sample.main, *arguments) == 0
    assert files(tmp_path) == ["out.png"]
    assert size_of(out) == (20 * 18 + 2, 20 * 18 + 2)


FULL = """
import os, resource, runpy, signal, sys
os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True  # see tests/full_disk.py
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_reader_that_leaves_and_a_terminal_without_letters_end_nothing(trained, tmp_path):
    """`sample.py ... | head -1`, where stdout is ASCII and the folder is not."""
    out = tmp_path / "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher"
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1"}
    arguments = ("sample.py", "--cascade", trained, "--num", 40, "--batch", 1, "--out", f"{out}/")
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(timeout=120) == 0, said
    assert first.endswith(b"/b\\xfccher/000000.png\n")
    assert "Error" not in said
    assert len(files(out)) == 40


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfred heart\r\n\r\ngreen apple",
        "red heart\ngreen apple\n".encode("utf-16"),
        b"  red heart\x0c\rgreen apple\n",
    ],
)
def test_prompts_of_a_file(tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    assert lines_of(tmp_path / "prompts.txt") == ["red heart", "green apple"]


def test_prompts_with_separators_that_are_no_line_ends(tmp_path):
    (tmp_path / "prompts.txt").write_text("a\u2028b\nc\x0cd\x85e\n", encoding="utf-8")
    assert lines_of(tmp_path / "prompts.txt") == ["a\u2028b", "c\x0cd\x85e"]


def test_prompts_that_are_piped_in(tmp_path):
    arguments = ("sample.py", "--prompts-file", "-", "--num", 1, "--steps", 1, "--out", f"{tmp_path}/out/")
    piped = "\ufeffred heart\n\nblue circle\n".encode()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, input=piped, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [read_metadata(path)["prompts"] for path in sorted((tmp_path / "out").iterdir())] == [
        ["red heart"],
        ["blue circle"],
    ]


@pytest.mark.matrix
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_sampling_leaves_whole_files_only(trained, tmp_path, told):
    out = tmp_path / "out"
    process = start("sample.py", "--cascade", trained, "--num", 10**6, "--batch", 2, "--out", f"{out}/")
    lines = interrupt(process, lambda: out.is_dir() and len(files(out)) > 4, told)
    assert process.returncode == 130
    found = files(out)
    assert lines[-2:] == [
        f"{len(found)} of {10**6} images are in {out}; the same command goes on from there", "interrupted",
    ]  # fmt: skip
    assert "Traceback" not in "".join(lines)
    assert found == [f"{k:06d}.png" for k in range(len(found))]
    for name in found:
        assert size_of(out / name) == (16, 16)


# help


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("train.py", "CASCADE STAGE overrides --data --out --images --engine --help"),
        ("sample.py", "prompts --cascade --num --seed --image --out --help"),
    ],
)
def test_help_lists_the_fixed_options(script, wanted):
    """Without importing torch: it comes at once."""
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = done.stdout.lower()
    assert [word for word in wanted.lower().split() if word not in words] == []
    assert not done.stderr


def test_an_interrupt_while_a_dataclass_is_made_ends_with_130(tmp_path):
    """CPython would end by SIGINT itself, without a word of code that caught it."""
    (tmp_path / "job.py").write_text(
        "from data.cli import run\n\ndef main():\n    exec('raise KeyboardInterrupt')\n\nrun(main)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    job = [sys.executable, "-m", "job"]
    done = subprocess.run(
        job, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted\n"
