"""sample.py --image with --mask, --strength or --invert: a picture of the user's own is painted over."""

import numpy as np
import pytest
from PIL import Image

import sample
from cascade.output.pictures import read_metadata, read_png
from tests.calling import call


@pytest.fixture
def given(tmp_path):
    """A picture of the cascade's own size and a mask of it: the right half."""
    rows, cols = np.mgrid[:16, :16] * 16
    Image.fromarray(np.stack([rows, cols, 255 - rows], -1).astype(np.uint8)).save(tmp_path / "own.png")
    Image.fromarray(np.where(cols < 128, 0, 255).astype(np.uint8)).save(tmp_path / "mask.png")
    return tmp_path / "own.png", tmp_path / "mask.png"


def test_a_masked_picture_and_the_same_again(trained, given, tmp_path):
    own, mask = given
    out = tmp_path / "out"
    arguments = ("--cascade", trained, "--image", own, "--mask", mask)
    assert (
        call(sample.main, "--label", "ring", *arguments, "--num", 2, "--resample", "base_8=2", "--out", f"{out}/") == 0
    )
    assert (read_png(out / "000001.png")[..., :8] == read_png(own)[..., :8]).all()
    assert not (read_png(out / "000001.png") == read_png(own)).all()
    said = read_metadata(out / "000001.png")
    assert said["source"].keys() == {"shape", "sha256", "mask"}
    assert said["stages"]["base_8"]["settings"]["resample"] == 2
    again = (*arguments, "--again", out / "000001.png", "--out", tmp_path / "again.png")
    assert call(sample.main, *again) == 0
    assert (tmp_path / "again.png").read_bytes() == (out / "000001.png").read_bytes()


@pytest.mark.parametrize("options", [("--strength", 0.5), ("--strength", "sr_16=0.5"), ("--invert-label", "ring")])
def test_image_to_image_and_inversion_are_made_again(trained, given, tmp_path, options):
    own, _ = given
    arguments = ("--cascade", trained, "--image", own)
    assert call(sample.main, *arguments, *options, "--out", tmp_path / "a.png") == 0
    assert call(sample.main, *arguments, "--again", tmp_path / "a.png", "--out", tmp_path / "b.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_does_not_suit_is_refused_in_a_line(trained, given, tmp_path, refused):
    own, mask = given
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    Image.new("L", (16, 16), 0).save(tmp_path / "black.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    base = ("--cascade", trained, "--out", tmp_path / "out.png")
    for says, options in {
        "paint over one picture; 0 are given": ("--mask", mask),
        "small.png: 8x8 px, --image": ("--image", own, "--mask", tmp_path / "small.png"),
        "black.png: the mask is empty": ("--image", own, "--mask", tmp_path / "black.png"),
        f"--mask {tmp_path / 'white.png'}: the mask is everywhere": ("--image", own, "--mask", tmp_path / "white.png"),
        "strength: Input should be greater than 0": ("--image", own, "--strength", 0),
        "--strength sr_61=0.5: no stage 'sr_61'": ("--image", own, "--strength", "sr_61=0.5"),
        "--image-stage sr_61: there is no such stage": ("--image", own, "--mask", mask, "--image-stage", "sr_61"),
        "neither mask nor strength below 1": ("--image", own, "--strength", 1),
        "nothing is known there": ("--image", own, "--strength", 0.5, "--resample", 3),
    }.items():
        assert says in refused(sample.main, *base, *options)
    assert not (tmp_path / "out.png").exists()


def test_again_wants_the_same_picture_and_mask(trained, given, tmp_path, refused):
    own, mask = given
    arguments = ("--cascade", trained, "--image", own)
    assert call(sample.main, *arguments, "--mask", mask, "--out", tmp_path / "a.png") == 0
    again = ("--cascade", trained, "--again", tmp_path / "a.png", "--out", tmp_path / "b.png")
    Image.open(own).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other.png")
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "others.png")
    assert "give that one with --image" in refused(sample.main, *again)
    assert "give it with --mask" in refused(sample.main, *again, "--image", own)
    assert "not the picture that" in refused(sample.main, *again, "--image", tmp_path / "other.png", "--mask", mask)
    assert "not the mask that" in refused(sample.main, *again, "--image", own, "--mask", tmp_path / "others.png")
