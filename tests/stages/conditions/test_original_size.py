"""The original size: read as logarithms, dropped alone, a setting of sampling, and heard by the network."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from data.batch import Batch, Cond, to_float, to_uint8
from data.resize import downsample, upsample
from stages.build import build_stage
from stages.conditions.original_size import read
from stages.config import BaseConfig, CondConfig, SampleConfig, SuperResConfig
from stages.draws import Draws
from stages.guidance import guidance
from stages.sampling import conditioned, noise_of
from stages.training.engine import LocalEngine
from tests.stages.tiny import rms, shapes_batch, train_config, unet_config, wake

NET = unet_config(widths=(16,), blocks=(1,))


def base(**changed) -> BaseConfig:
    return BaseConfig(
        **({"resolution": 8, "net": NET, "cond": {"original_size": {}}, "train": train_config()} | changed)
    )


def sized(batch: Batch, height: int, width: int) -> Batch:
    px = torch.tensor([[height, width]]).expand(len(batch), 2)
    return replace(batch, cond=batch.cond.given(original_size=px))


def in_sampling(stage, cond: Cond, **settings) -> Cond:
    below = None if stage.config.takes is None else torch.zeros(len(cond), 3, *stage.config.takes)
    changed = stage.config.sample.model_copy(update=settings)
    return conditioned(stage, cond, below, changed, noise_of("s", 0, torch.arange(len(cond)), "cpu"))


def test_twice_the_side_is_a_third_more():
    told = read(torch.tensor([[64, 64], [128, 32], [4096, 1]]), 64)
    octave = 0.34657359
    assert_close(told, torch.tensor([[0.0, 0.0], [octave, -octave], [6 * octave, -6 * octave]]))
    assert told.dtype == torch.float32


def test_training_is_told_the_sizes_of_the_data_and_drops_them_alone():
    stage = build_stage(base(cond={"original_size": {"drop": 0.3}, "num_classes": 9, "drop": 0.5}))
    batch = sized(shapes_batch(40, 8), 32, 16)
    _, cond = stage.prepared(batch, Draws(batch, 0), None)
    u = Draws(batch, 0).uniforms
    assert torch.equal(cond.value("original_size"), read(torch.tensor([[32, 16]]), 8).expand(40, 2))
    assert torch.equal(cond.parts["original_size"].keep, u["drop_original_size"] >= 0.3)
    assert torch.equal(cond.parts["label"].keep, u["drop"] >= 0.5)


@pytest.mark.parametrize("kind", ["base", "super_res"])
def test_sampling_is_told_a_setting_else_what_is_given_else_its_own(kind):
    stage = build_stage(
        base() if kind == "base" else SuperResConfig(low_res=4, resolution=8, net=NET, cond={"original_size": {}})
    )
    none, given = Cond.empty(2), Cond.empty(2).given(original_size=torch.tensor([[16, 32], [64, 8]]))
    own, told, said = (
        in_sampling(stage, none),
        in_sampling(stage, given),
        in_sampling(stage, given, original_size=(8, 64)),
    )
    assert_close(own.value("original_size"), torch.zeros(2, 2))
    assert torch.equal(told.value("original_size"), read(torch.tensor([[16, 32], [64, 8]]), 8))
    assert torch.equal(said.value("original_size"), read(torch.tensor([[8, 64], [8, 64]]), 8))
    assert said.parts["original_size"].keep.all()
    assert not in_sampling(stage, given, original_size=(0, 0)).parts["original_size"].keep.any()


def test_not_told_is_the_null_and_guidance_leaves_it(generator):
    stage = wake(build_stage(base(cond={"original_size": {}, "num_classes": 9}))).eval()
    x, sigma = torch.randn(2, 3, 8, 8, generator=generator), torch.ones(2)
    none = Cond.of(torch.ones(2, dtype=torch.bool), label=torch.tensor([1, 2]))
    told = none.given(original_size=torch.tensor([[0.5, 0.0], [0.0, 0.5]]))
    x0_hat = stage.denoise(x, sigma, told).x0_hat
    assert torch.equal(
        stage.denoise(x, sigma, told.dropped(("original_size",))).x0_hat, stage.denoise(x, sigma, none).x0_hat
    )
    swapped = none.given(original_size=torch.tensor([[0.0, 0.5], [0.5, 0.0]]))
    assert (stage.denoise(x, sigma, swapped).x0_hat - x0_hat).abs().amax() > 1e-3  # height is not width
    settings = SampleConfig(guidance_scale=2.0)
    rule = guidance(settings, told, stage.config.cond.names)
    from stages.diffusion.samplers import Query

    (_, own), (_, null) = rule.asks(Query(x, sigma))
    assert not null.cond.parts["label"].keep.any()
    assert torch.equal(null.cond.value("original_size"), own.cond.value("original_size"))
    assert null.cond.parts["original_size"].keep.all()
    assert CondConfig(original_size={}).names == ()


def test_its_embedding_has_unit_variance(generator):
    torch.manual_seed(0)
    embedding = build_stage(base(net=unet_config(widths=(16,), blocks=(1,), emb_dim=256))).net.embedding
    cond = Cond.empty(64).given(original_size=torch.randn(64, 2, generator=generator))
    for each in (cond, Cond.empty(64)):
        assert rms(embedding(torch.randn(64, generator=generator), each)) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("said", [(0, 8), (-1, 8), (8,), "big"])
def test_settings_that_are_no_size_are_refused(said):
    with pytest.raises(ValidationError, match="original_size"):
        SampleConfig(original_size=said)


def blurred_or_not(num: int, start: int) -> Batch:
    """Shapes of 8 px, every second one shrunk to 2 px and enlarged again; each is told how large it was."""
    batch = shapes_batch(num, 8, start=start)
    small = to_uint8(upsample(downsample(to_float(batch.image), (2, 2)), (8, 8)))
    blurred = torch.arange(num) % 2 == 0
    image = torch.where(blurred[:, None, None, None], small, batch.image)
    px = torch.where(blurred, 2, 32)[:, None].expand(num, 2)
    return replace(batch, image=image, cond=Cond.empty(num).given(original_size=px))


@pytest.mark.slow
def test_it_learns_that_small_pictures_are_blurred():
    """The loss with the right sizes is below that with the sizes of others, where both are held out."""
    config = base(train=train_config(images=1600, batch=8, lr=0.05, warmup=80))
    torch.manual_seed(0)
    stage = build_stage(config)
    engine = LocalEngine(stage, config.train, torch.device("cpu"))
    for nimg in range(0, 1600, 8):
        engine.update([blurred_or_not(8, nimg)], 0.05 * (1 - nimg / 1600))
    stage.eval()
    batch = blurred_or_not(128, 10**5)
    swapped = replace(batch, cond=Cond.empty(128).given(original_size=batch.cond.value("original_size").roll(1, 0)))
    with torch.no_grad():
        right, wrong = (stage(each, seed=1).loss.item() for each in (batch, swapped))
    assert right < 0.97 * wrong
