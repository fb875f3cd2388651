"""Degradations of low_res: each step against what it should do to a known picture, and that image k depends on nothing but k."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from data.batch import to_float
from data.resize import downsample
from stages.build import build_stage
from stages.config import SuperResConfig
from stages.degrade import KERNELS, blurred, compressed, degraded
from stages.degrade_config import DegradeConfig
from stages.draws import Draws
from tests.stages.tiny import shapes_batch
from tests.worlds import TINY_NET

NONE = {"blur": 0, "noise": 0, "jpeg": 100}
SIZE = (16, 16)


def always(**changed) -> DegradeConfig:
    return DegradeConfig(**({"probability": 1} | NONE | changed))


def low_res(config: DegradeConfig, num: int = 8, size: int = 64):
    batch = shapes_batch(num, size)
    x0 = to_float(batch.image)
    return x0, degraded(x0, SIZE, config, Draws(batch, 0))


def flat(num: int, level: int = 128):
    batch = shapes_batch(num, 16)
    return replace(batch, image=torch.full_like(batch.image, level))


def test_without_strengths_it_is_one_of_three_kernels():
    x0, found = low_res(always(), num=48)
    each = torch.stack([shrink(x0, SIZE) for shrink in KERNELS])
    errors = (each - found).abs().flatten(2).amax(2)
    assert errors.amin(0).max() < 1e-6
    assert errors.argmin(0).unique().tolist() == [0, 1, 2]


def test_the_share_of_the_config_is_degraded_and_the_rest_is_the_downsample():
    x0, found = low_res(DegradeConfig(probability=0.5, jpeg=5), num=64)
    same = (found == downsample(x0, SIZE)).flatten(1).all(1)
    assert same.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 8)
    x0, found = low_res(DegradeConfig(probability=1e-9))
    assert torch.equal(found, downsample(x0, SIZE))


@pytest.mark.parametrize("order", [1, 2])
def test_an_image_does_not_depend_on_its_batch(order):
    config, batch = DegradeConfig(probability=0.7, order=order), shapes_batch(8, 64)
    whole = degraded(to_float(batch.image), SIZE, config, Draws(batch, 3))
    for k in range(8):
        alone = degraded(to_float(batch.image[k : k + 1]), SIZE, config, Draws(batch[k : k + 1], 3))
        assert_close(alone, whole[k : k + 1], rtol=0, atol=1e-5)
    again = degraded(to_float(batch.image), SIZE, config, Draws(batch, 3))
    assert torch.equal(again, whole)
    assert not torch.equal(degraded(to_float(batch.image), SIZE, config, Draws(batch, 4)), whole)


def test_a_blur_multiplies_a_wave_by_the_transform_of_its_gaussian():
    """cos(2 pi f x) becomes exp(-2 pi^2 f^2 std^2) cos(2 pi f x), each axis by its own std."""
    columns = torch.arange(64).float()
    wave = (2 * math.pi * columns / 8).cos()
    stds = torch.tensor([[1.0, 1.5], [2.0, 0.0]])
    gain = [[math.exp(-2 * (math.pi / 8 * std) ** 2) for std in row] for row in stds.tolist()]
    along_columns = wave.reshape(1, 1, 64, 1).expand(2, 1, 64, 64)
    found = blurred(along_columns, stds, 8)[:, 0, 16:48, 32]
    assert_close(found, torch.stack([wave[16:48] * row[0] for row in gain]), rtol=0, atol=2e-3)
    found = blurred(along_columns.transpose(-1, -2), stds, 8)[:, 0, 32, 16:48]
    assert_close(found, torch.stack([wave[16:48] * row[1] for row in gain]), rtol=0, atol=2e-3)


def test_noise_has_stds_up_to_the_largest_and_is_gray_in_a_share():
    batch = flat(400)
    found = degraded(to_float(batch.image), SIZE, always(noise=0.2), Draws(batch, 0)) - to_float(batch.image)
    stds = found.flatten(1).std(1) / 0.2
    assert_close(
        stds.sqrt().quantile(torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.08
    )
    gray = (found == found[:, :1]).flatten(1).all(1)
    assert gray.double().mean().item() == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 400))


@pytest.mark.parametrize("quality", [10, 40, 90])
def test_compression_is_that_of_a_jpeg_file(quality):
    """The error against a file of Pillow is a sixth of the error of compression, in energy, or less."""
    picture = to_float(shapes_batch(1, 64).image)
    picture = (picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    levels = ((picture[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=2)
    expected = to_float(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None])
    found = compressed(picture, torch.tensor([float(quality)]))
    assert (found - expected).square().mean() < (expected - picture).square().mean() / 6


def test_two_passes_lose_more_than_one():
    x0, once = low_res(always(blur=1.5, noise=0.1, jpeg=30), num=64)
    _, twice = low_res(always(blur=1.5, noise=0.1, jpeg=30, order=2), num=64)
    clean = downsample(x0, SIZE)
    assert (twice - clean).square().mean() > 1.2 * (once - clean).square().mean()
    assert once.shape == twice.shape == clean.shape


def stage_config(**changed) -> SuperResConfig:
    return SuperResConfig(**({"resolution": 16, "low_res": 4, "net": TINY_NET} | changed))


def test_a_stage_is_given_the_degraded_picture_enlarged():
    config = stage_config(aug={"max_sigma": 0}, degrade={"probability": 1})
    stage, batch = build_stage(config), shapes_batch(8, 16)
    draws = Draws(batch, 0)
    x0, cond = stage.prepared(batch, draws, None)
    assert torch.equal(x0, to_float(batch.image))
    assert torch.equal(cond.value("low_res"), stage.enlarge(degraded(x0, (4, 4), config.degrade, draws)))
    below = torch.zeros(8, 3, 4, 4)
    assert not stage.prepared(batch, draws, below)[1].value("low_res").any()  # a stage's own picture is left as it is


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"degrade": {"blur": 17}}, "blur 17.0 px is above 16"),
        ({"degrade": {"jpeg": 0}}, "greater than or equal to 1"),
        ({"degrade": {"order": 3}}, "less than or equal to 2"),
        ({"degrade": {"probability": 0.5}, "channels": 4}, "3 channels in the space pixels, not 4"),
    ],
)
def test_what_cannot_be_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        stage_config(**changed)
