"""THE resize against Pillow's bicubic, an independent implementation, on real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batch import to_float, to_uint8
from data.resize import downsample, upsample

EMOJI = sorted((Path(__file__).parents[2] / "data" / "emoji64").glob("*.png"))[::20]


def floats(image: Image.Image) -> torch.Tensor:
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.mark.parametrize("side", [16, 24, 48])
def test_downsample_is_pillows_bicubic(side):
    # Pillow rounds and clips to 8 bit between its two passes; what is left is that
    values = []
    for path in EMOJI:
        image = Image.open(path)
        pillow = floats(image.resize((side, side), Image.Resampling.BICUBIC))
        values.append(psnr(downsample(floats(image), (side, side)), pillow))
    assert len(values) > 15
    assert min(values) > 48
    assert sum(values) / len(values) > 52


@pytest.mark.parametrize("side", [65, 96, 256])
def test_upsample_is_pillows_bicubic(side):
    for path in EMOJI:
        image = Image.open(path)
        pillow = floats(image.resize((side, side), Image.Resampling.BICUBIC))
        assert psnr(upsample(floats(image), (side, side)).clamp(-1, 1), pillow) > 50


def test_a_second_kernel_would_be_noticed():
    image = Image.open(EMOJI[0])
    bilinear = floats(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert psnr(downsample(floats(image), (16, 16)), bilinear) < 45


def test_ends_of_the_range_and_flat_pictures_stay():
    for level in (-1.0, 0.25, 1.0):
        flat = torch.full((1, 3, 64, 48), level)
        torch.testing.assert_close(downsample(flat, (16, 12)), torch.full((1, 3, 16, 12), level), rtol=0, atol=1e-6)
        torch.testing.assert_close(upsample(flat, (96, 50)), torch.full((1, 3, 96, 50), level), rtol=0, atol=1e-6)
    step = torch.full((1, 1, 8, 8), -1.0)
    step[..., 4:] = 1
    assert downsample(step, (6, 6)).abs().max() <= 1


def test_same_size_is_identity_and_wrong_direction_is_refused():
    image = torch.rand(2, 3, 9, 7) * 2 - 1
    assert downsample(image, (9, 7)) is image
    assert upsample(image, (9, 7)) is image
    with pytest.raises(ValueError, match="cannot shrink"):
        downsample(image, (9, 8))
    with pytest.raises(ValueError, match="cannot grow"):
        upsample(image, (8, 9))


def test_levels_survive_the_way_to_float_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
