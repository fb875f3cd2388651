"""What sample.py says about bad arguments and bad bundles: exit 2, one line, nothing half-written."""

import os
import shutil

import pytest
import torch

import sample
from tests.commands.files import edit, files, picture, replace_weights


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
        (("--sampler", "plms"), "sampler: Input should be 'euler', 'heun'"),
        (("--guidance", "nan"), "guidance_scale: Input should be a finite number"),
        (
            ("--guidance", "1,2", "--set", "guidance_scale=3"),
            "--set guidance_scale=3: --guidance says it for stage base_8 already; leave one of them out",
        ),
        (("--steps", "2", "--set", "base_8.num_steps=3"), "--set base_8.num_steps=3: --steps says it for stage base_8"),
        (("--set", "num_step=3"), "num_step: Extra inputs are not permitted (got '3'); did you mean num_steps?"),
        (("--seconds", "1e-9"), "request: 1e-09 s is too short, the least takes about"),
        (("--seconds", "nan"), "request: seconds nan is out of range; a positive number of seconds is allowed"),
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
