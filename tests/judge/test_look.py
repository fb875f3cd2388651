"""The look of pictures: what moves it, and what does not."""

import pytest
import torch

from cascade.judge.look import DIMENSIONS, look
from data.batch import to_float, to_uint8
from data.resize import downsample, upsample

from .laws import noisy, pictures


@pytest.mark.parametrize("size", [8, 16, 40, 64])
def test_a_row_is_of_its_picture_alone(size):
    images = pictures(70, size)
    rows = look(images)
    assert rows.shape == (70, DIMENSIONS)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(look(images[66:67]), rows[66:67], rtol=0, atol=1e-6)


def test_the_mean_colour_is_in_it():
    flat = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    red = flat.clone()
    red[:, 0] += 64
    change = (look(red) - look(flat))[0]
    assert change[0] > 0.1  # the luminance's lowest frequency
    assert change[16] > 0.4  # red minus green
    assert look(flat)[0, 16:28].abs().max() < 1e-6  # gray has no chroma and no edges


def test_edges_count_by_direction():
    bars = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    bars[..., ::4] = 255
    upright, lying = look(bars)[0, 24:28], look(bars.transpose(2, 3))[0, 24:28]
    assert upright.argmax() == 0
    assert lying.argmax() == 2


def test_speckle_and_blur_move_the_sharpness_to_either_side():
    images = pictures(40, 64)
    blurred = to_uint8(upsample(downsample(to_float(images), (8, 8)), (64, 64)))
    fine = look(images)[:, 31].mean()
    assert look(noisy(images, 12))[:, 31].mean() > 2 * fine
    assert look(blurred)[:, 31].mean() < fine


def test_gray_pictures_are_refused():
    with pytest.raises(ValueError, match=r"look: pictures have 1 channels; RGB is needed"):
        look(pictures(2, 16, channels=1))
