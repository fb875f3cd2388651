"""sample.py --image: a picture of the user's own or a folder of them becomes larger."""

import os

import pytest
import torch
from PIL import Image

import sample
from cascade import Cascade
from cascade.output import upscale
from cascade.output.pictures import read_metadata
from stages.degrade_config import DegradeConfig
from tests.calling import call
from tests.cascade.chains import tiny_config, write_cascade
from tests.commands.files import files, picture, size_of


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


@pytest.mark.parametrize(("probability", "usual"), [(0.0, 1.0), (0.5, 0.0)])
def test_a_stage_that_mends_photographs_need_not_agree_with_them(tmp_path, probability, usual):
    """Its work is to take noise and JPEG's blocks out; consistency would put them back. Who says so gets it."""
    config = tiny_config(8, 16)
    mending = config.stages["sr_16"].model_copy(update={"degrade": DegradeConfig(probability=probability)})
    write_cascade(tmp_path / "run", config.model_copy(update={"stages": config.stages | {"sr_16": mending}}))
    Image.new("RGB", (8, 8), (30, 200, 30)).save(tmp_path / "low.jpg", quality=40)
    arguments = ("--cascade", tmp_path / "run", "--image", tmp_path / "low.jpg")
    for options, expected in (((), usual), (("--consistency", 0.25), 0.25)):
        out = tmp_path / f"{expected}.png"
        assert call(sample.main, *arguments, *options, "--out", out) == 0
        assert read_metadata(out)["stages"]["sr_16"]["settings"].get("consistency", 0.0) == expected


def test_seconds_are_for_all_pictures_together(trained, tmp_path, refused, monkeypatch):
    """Of the speed that is measured a number is made here, so that the steps are known."""
    monkeypatch.setattr(upscale, "measured", lambda plan: {link.host.name: 0.01 for link in plan.links})
    for name in ("one", "two", "three"):
        Image.new("RGB", (8, 8), (30, 200, 30)).save(tmp_path / f"{name}.png")
    given = [part for name in ("one", "two", "three") for part in ("--image", tmp_path / f"{name}.png")]
    arguments = ("--cascade", trained, *given, "--out", f"{tmp_path}/large/", "--overwrite")
    own = model_steps(trained)
    for share, expected in ((1.0, own), (0.5, own // 2), (100.0, own)):
        assert call(sample.main, *arguments, "--seconds", 3 * 0.01 * own * share) == 0
        made = [read_metadata(tmp_path / "large" / f"{name}.png") for name in ("one", "two", "three")]
        assert [each["stages"]["sr_16"]["settings"]["num_steps"] for each in made] == [expected] * 3
    told = "request: 0.02 s is too short, the least takes about 0.03 s here"
    assert told in refused(sample.main, *arguments, "--seconds", 0.02)


def model_steps(folder) -> int:
    """num_steps of the last stage of a trained cascade."""
    return Cascade.load(folder).links[-1].settings.num_steps


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
