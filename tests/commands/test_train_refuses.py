"""What train.py says about bad input: exit 2, one line, nothing half-written."""

import os
import shutil
import sys

import pytest

import train
from tests.commands.files import files


def test_a_missing_wandb_leaves_no_run(small, shards, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = refused(train.main, small, "base_8", "--data", shards, "--out", tmp_path / "runs", "--wandb", "mine")
    assert "--wandb needs the package wandb" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emojy", "base_16"), "cascade 'emojy': no such file and not one of emoji, emoji_styles, emoji_tiny"),
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
        (("SMALL", "base_8", "stages.base_8.learned_variance=true", "--dry-run"), "kind denoising trains no variance"),
        (("SMALL", "base_8", "stages.base_8.train.objective.kind=hybrid", "--dry-run"), "the network predicts none"),
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
        (("SMALL", "base_8", "--out", "FILE/runs"), "file/runs/base_8: this folder cannot be made ("),
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
    (tmp_path / "file").touch()
    names = {"SMALL": small, "FILE/runs": tmp_path / "file" / "runs"}
    arguments = [
        "--data",
        shards,
        "--out",
        tmp_path / "out",
        *(names.get(argument, argument) for argument in arguments),
    ]
    assert message in refused(train.main, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1"])
def test_options_are_looked_at_before_data(refused, small, tmp_path, minutes):
    line = refused(train.main, small, "base_8", "--data", tmp_path / "nowhere", "--minutes", minutes)
    assert f"--minutes {minutes}: minutes above 0 are needed" in line
    line = refused(train.main, small, "base_8", "--data", tmp_path / "nowhere", "--cache-gb", "-1")
    assert "--cache-gb -1: gigabytes above 0 are needed" in line


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
