"""Measures of pictures: colour drift, grain, sharpness, PSNR, SSIM, consistency with the low_res."""

import math

import numpy as np
import pytest
import torch

from cascade.judge.colour import colour_drift
from cascade.judge.fidelity import low_res_consistency, psnr, ssim
from cascade.judge.grain import grain, sharpness
from data.batch import to_float, to_uint8
from data.resize import downsample
from tests import grain as former

from .laws import noisy, pictures

GREY = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)


def test_drift_is_the_difference_of_means_and_stds():
    reference = pictures(5, 32)
    changed = torch.cat([reference[:, :1] // 2, reference[:, 1:] // 2 + 60], dim=1)[:3]
    drift = colour_drift(reference, changed)
    a, b = (np.asarray(each, dtype=float) for each in (reference, changed))
    assert drift.mean == pytest.approx(b.mean(axis=(0, 2, 3)) - a.mean(axis=(0, 2, 3)))
    assert drift.std == pytest.approx(b.std(axis=(0, 2, 3)) - a.std(axis=(0, 2, 3)))


def test_a_set_does_not_drift_from_itself_at_another_size():
    drift = colour_drift(pictures(4), pictures(4).repeat(2, 1, 2, 2))
    assert (*drift.mean, *drift.std) == pytest.approx([0] * 6, abs=1e-9)


def test_grain_of_white_noise_is_its_std():
    expected = 10 / 127.5 * (1 - 1 / 9) ** 0.5
    assert grain(noisy(GREY, 10)).tolist() == pytest.approx([expected] * 2, rel=0.05)
    assert sharpness(noisy(GREY, 10)).tolist() == pytest.approx([expected] * 2, rel=0.05)
    assert grain(GREY).tolist() == [0, 0]


def test_an_edge_is_sharp_and_no_grain():
    edge = GREY.clone()
    edge[..., 16:] = 255
    assert grain(edge).tolist() == [0, 0]
    assert (sharpness(edge) > 0.05).all()


def test_where_nothing_is_flat_there_is_no_grain():
    saw = (torch.arange(32) * 32 % 256).to(torch.uint8).expand(2, 3, 32, 32)
    assert grain(saw).isnan().all()


def test_grain_is_that_of_the_tests():
    images = noisy(pictures(1, 64), 5)
    assert grain(images).item() == pytest.approx(former.grain(to_float(images)), rel=1e-4)


def test_psnr_of_each_picture():
    images = pictures(3, 32) // 2
    shifted = images + torch.tensor([0, 1, 10], dtype=torch.uint8).view(3, 1, 1, 1)
    values = psnr(shifted, images).tolist()
    assert values[0] == math.inf
    assert values[1:] == pytest.approx([20 * math.log10(255), 20 * math.log10(25.5)])


def test_ssim_of_equal_pictures_is_one_and_of_flat_ones_its_closed_form():
    images = pictures(2, 32)
    assert ssim(images, images).tolist() == pytest.approx([1, 1])
    dark = GREY // 2
    c1 = (0.01 * 255) ** 2
    assert ssim(dark, GREY).tolist() == pytest.approx([(2 * 64 * 128 + c1) / (64**2 + 128**2 + c1)] * 2)
    assert (ssim(noisy(images, 20), images) < 0.8).all()


def test_consistency_is_the_rounding_of_low_res_at_best():
    images = pictures(4, 64)
    low_res = to_uint8(downsample(to_float(images), (16, 16)))
    best = low_res_consistency(images, low_res)
    assert (best > 57).all()
    assert (low_res_consistency(images, noisy(low_res, 10)) < 30).all()
    assert (low_res_consistency(noisy(images, 10), low_res) > 30).all()  # the downsample averages grain away


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize(
    ("images", "references", "message"),
    [
        (pictures(3), pictures(2), "3 for 2 references"),
        (pictures(2), pictures(2, 16), "16 x 16 and 32 x 32 px"),
        (pictures(2), pictures(2, channels=1), "channels: references have 1, pictures 3"),
        (pictures(2).float(), pictures(2), "pictures: pictures are float32"),
    ],
)
def test_what_cannot_be_compared_is_refused(measure, images, references, message):
    with pytest.raises(ValueError, match=message):
        measure(images, references)


def test_other_bad_pictures_are_refused():
    with pytest.raises(ValueError, match="10 x 10 px; at least 11 px"):
        ssim(pictures(1, 10), pictures(1, 10))
    with pytest.raises(ValueError, match="low_res: 2 for 3 pictures"):
        low_res_consistency(pictures(3), pictures(2, 16))
    with pytest.raises(ValueError, match="cannot shrink"):
        low_res_consistency(pictures(2), pictures(2, 64))
    for measure in (grain, sharpness):
        with pytest.raises(ValueError, match="uint8"):
            measure(pictures(1)[0])
