"""Maps in a stage: shrunk, mirrored, moved and cropped with their picture, dropped for guidance, heard by the network."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batch import Batch, Cond, to_float
from data.resize import downsample
from stages.build import build_stage
from stages.conditions.maps import planes
from stages.config import BaseConfig, CondConfig, SuperResConfig
from stages.draws import Draws
from stages.sampling import conditioned, noise_of, sample_alone
from stages.tools.cost import cost_of
from stages.training.engine import LocalEngine
from tests.stages.tiny import shapes_batch, train_config, unet_config, wake

NET = unet_config(widths=(16,), blocks=(1,))
MAPS = {"maps": {"channels": 3}, "drop": 0.25}


def twins(num: int, side: int, start: int = 0) -> Batch:
    """Pictures that are their own maps."""
    batch = shapes_batch(num, side, start=start)
    return replace(batch, cond=Cond.empty(num).given(maps=batch.image))


def base(**changed) -> BaseConfig:
    return BaseConfig(**({"resolution": 8, "net": NET, "cond": MAPS, "train": train_config()} | changed))


def sr(**changed) -> SuperResConfig:
    values = {"low_res": 4, "resolution": 16, "crop": 8, "net": NET, "cond": MAPS, "train": train_config(flip=True)}
    return SuperResConfig(**(values | changed))


@pytest.mark.parametrize("augment", [0.0, 1.0])
@pytest.mark.parametrize("config", [base, sr])
def test_a_map_has_all_that_its_picture_has(config, augment):
    """A map that is the picture stays the picture through downsample, mirroring, warp and crop."""
    made = config(train=train_config(flip=True, augment={"probability": augment}))
    stage = build_stage(made).train()
    batch = twins(8, 16)
    x0, cond = stage.prepared(batch, Draws(batch, 3), None)
    assert torch.equal(cond.value("maps"), x0)
    kept = Draws(batch, 3).uniforms["drop"] >= 0.25
    assert torch.equal(cond.parts["maps"].keep, kept)
    assert 0 < kept.sum() < 8


def test_the_first_layer_alone_is_wider():
    with_maps, without = (build_stage(base(cond=cond)) for cond in (MAPS, {}))
    assert with_maps.net.conv_in.weight.shape[1] == without.net.conv_in.weight.shape[1] + 4
    assert cost_of(base()).forward_flops > cost_of(base(cond={})).forward_flops
    assert build_stage(sr()).net.conv_in.weight.shape[1] == 3 + 3 + 4 + 1


@pytest.mark.parametrize("config", [base, sr])
def test_a_dropped_map_is_none(config, generator):
    stage = wake(build_stage(config())).eval()
    side = stage.config.resolution
    x, sigma = torch.randn(2, 3, side, side, generator=generator), torch.ones(2)
    given = Cond.empty(2)
    if stage.config.takes:
        given = given.given(low_res=torch.zeros_like(x), aug=torch.zeros(2))
    told = given.given(maps=torch.rand(2, 3, side, side, generator=generator))
    none = stage.denoise(x, sigma, given).x0_hat
    assert torch.equal(stage.denoise(x, sigma, told.dropped(("maps",))).x0_hat, none)
    assert (stage.denoise(x, sigma, told).x0_hat - none).abs().amax() > 1e-3
    black = stage.denoise(x, sigma, given.given(maps=0 * x)).x0_hat  # gray everywhere is not nothing
    assert (black - none).abs().amax() > 1e-4


def test_maps_of_another_size_are_refused():
    part = Cond.empty(1).given(maps=torch.zeros(1, 3, 4, 4)).parts["maps"]
    with pytest.raises(ValueError, match=r"maps are \(3, 4, 4\), \(3, 8, 8\) are needed beside x"):
        planes(part, torch.zeros(1, 3, 8, 8), 3)


def test_stored_maps_are_shrunk_when_a_stage_samples(generator):
    stage = build_stage(sr())
    stored = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    cond, noise = Cond.empty(2).given(maps=stored), noise_of("s", 0, torch.arange(2), "cpu")
    ready = conditioned(stage, cond, torch.zeros(2, 3, 4, 4), stage.config.sample, noise)
    assert_close(ready.value("maps"), downsample(to_float(stored), (16, 16)))


@pytest.mark.slow
def test_it_learns_to_follow_its_map():
    """Pictures that are their own maps: after 150 updates a sample is nearer to its map than to another's, which without maps
    it is not."""
    config = base(train=train_config(images=1200, batch=8, lr=0.1, warmup=80), sample={"num_steps": 6})
    torch.manual_seed(0)
    stage = build_stage(config)
    engine = LocalEngine(stage, config.train, torch.device("cpu"))
    for nimg in range(0, 1200, 8):
        engine.update([twins(8, 8, start=nimg)], 0.1 * (1 - nimg / 1200))
    stage.eval()
    batch = twins(8, 8, start=10**5)
    cond, noise = stage.mapped(batch.cond, (8, 8)), noise_of("s", 0, batch.index, "cpu")
    made = sample_alone(stage, config.sample, cond, noise, (8, 3, 8, 8))
    truth = cond.value("maps")
    blind = sample_alone(stage, config.sample, Cond.empty(8), noise, (8, 3, 8, 8))

    def ratio(pictures: torch.Tensor) -> float:
        return ((pictures - truth).square().mean() / (pictures - truth.roll(1, 0)).square().mean()).item()

    assert ratio(made) < 0.5 < 0.8 < ratio(blind)


def test_conditions_are_dropped_by_name():
    assert CondConfig(maps={}, num_classes=3).names == ("label", "maps")
    with pytest.raises(ValueError, match="give two of num_classes, text and maps"):
        CondConfig(maps={}, drop_each=0.1)
