"""Recipes learn: after about a minute of training a super-resolution stage sharpens pictures it has never seen, and paints no
grain; the base stage of the first minutes draws what captions say."""

from pathlib import Path

import pytest
import torch

from cascade.config import load_config, stage_of
from cascade.demo import BASE_IMAGES
from cascade.first_minutes import CAPTIONS, PRESET, SCENES, SIDE, overrides
from cascade.manifest import write_manifest
from cascade.pipeline import Cascade
from cascade.request import Request
from data.batch import Cond, to_float, to_uint8
from data.pack.packer import PackSettings, pack
from data.read.shards import read_split
from data.resize import downsample
from data.world.scenes import write_folder
from data.world.score import score
from stages.bundle import load_bundle
from stages.sampling import conditioned, noise_of, sample_alone
from stages.training.loop import train
from stages.training.runtime import Runtime
from tests.bench.sr_psnr import mean_psnr
from tests.grain import flat, grain

EMOJI = Path(__file__).parents[1] / "data" / "emoji64"


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_a_minute_of_training_sharpens_unseen_pictures_and_paints_no_grain(tmp_path):
    pack(EMOJI, tmp_path / "shards", PackSettings(size=64, val=0.1))
    config = stage_of(
        load_config("emoji_tiny", ["stages.sr_64.train.images=4000", "stages.sr_64.train.ema=[400]"]), "sr_64"
    )
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    stage = load_bundle(train(config, name="sr_64", data=tmp_path / "shards", out=tmp_path / "run", runtime=runtime))

    truth = to_float(next(read_split(tmp_path / "shards", "val", batch=32, resolution=64, limit=32)).image)
    low_res = to_float(to_uint8(downsample(truth, (16, 16))))
    settings = config.sample.model_copy(update={"aug_sigma": 0.0})
    noise = noise_of("sr_64", 0, torch.arange(len(truth)), "cpu")
    cond = conditioned(stage, Cond.empty(len(truth)), low_res, settings, noise)
    samples = sample_alone(stage, settings, cond, noise, truth.shape)
    assert mean_psnr(samples, truth) > mean_psnr(stage.enlarge(low_res), truth)
    assert grain(samples) < 0.04


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_the_base_stage_of_the_first_minutes_draws_what_captions_say(tmp_path):
    """By its preset, as `python -m cascade.demo` trains it; 56 captions, a shape each, read at 16 px."""
    scenes = write_folder(tmp_path / "scenes", SCENES, SIDE, show="train", objects=(1,))
    pack(scenes, tmp_path / "shards", PackSettings(size=SIDE, text_encoder="minilm", val=0.05))
    config = stage_of(load_config(PRESET, overrides({"base_16": BASE_IMAGES})), "base_16")
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    write_manifest(load_config(PRESET), tmp_path)
    train(config, name="base_16", data=tmp_path / "shards", out=tmp_path / "base_16", runtime=runtime)

    model = Cascade.load(tmp_path, last="base_16", device="cpu")
    *_, finished, _ = model.sample(model.resolve(Request(prompts=CAPTIONS, batch=len(CAPTIONS))))
    right = score(finished.images.permute(0, 2, 3, 1).numpy(), CAPTIONS)
    assert right.fraction > 0.6, right
    assert grain(to_float(finished.images)) < 0.05


@pytest.mark.parametrize("std", [0.0, 0.03, 0.06, 0.15])
def test_grain_is_the_share_of_white_noise_that_is_finer_than_3_px(std):
    """Its mean over 9 pixels is taken away: sqrt(8 / 9) of the std is left."""
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert grain(0.3 + std * noise) == pytest.approx(std * (8 / 9) ** 0.5, rel=0.02, abs=1e-6)


def test_edges_are_no_grain():
    square = torch.ones(1, 3, 64, 64)
    square[..., 20:44, 20:44] = -0.5
    assert grain(square) == pytest.approx(0, abs=1e-6)
    assert not flat(square)[0, 0, 32, 18:22].any()
