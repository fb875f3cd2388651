"""Sliced Wasserstein distance: which level is wrong, and its closed form for shifted noise."""

import pytest
import torch

from cascade.judge.wasserstein import laplacian, sliced_wasserstein

from .laws import noisy, pictures


def generator():
    return torch.Generator().manual_seed(0)


def test_the_levels_sum_to_the_picture():
    images = torch.rand(2, 3, 70, 65) * 2 - 1
    levels = list(laplacian(images))
    assert [tuple(level.shape[2:]) for level in levels] == [(70, 65), (35, 32), (17, 16)]
    from data.resize import upsample

    total = levels[-1]
    for level in reversed(levels[:-1]):
        total = level + upsample(total, tuple(level.shape[2:]))
    torch.testing.assert_close(total, images)


def test_grain_is_far_in_the_finest_level():
    real, other = pictures(30, 64), pictures(30, 64, seed=1)
    floor = sliced_wasserstein(real, other, generator())
    grainy = sliced_wasserstein(real, noisy(other, 10), generator())
    assert len(floor) == 3
    assert grainy[0] > 10 * floor[0]
    assert grainy[2] < 2 * floor[2]


def test_a_tint_is_far_in_the_coarsest_level_only():
    real = pictures(30, 64) // 2 + 40
    floor = sliced_wasserstein(real, pictures(30, 64, seed=1) // 2 + 40, generator())
    tinted = sliced_wasserstein(real, pictures(30, 64, seed=1) // 2 + 80, generator())
    assert tinted[0] < 1.5 * floor[0]
    assert tinted[2] > 2 * floor[2]


def test_of_scaled_white_noise_it_is_the_closed_form():
    """Projections are N(0, 1) and N(0, s^2): their distance is (s - 1) E|z|."""
    white = torch.full((200, 1, 16, 16), 128, dtype=torch.uint8)
    distance = sliced_wasserstein(noisy(white, 10), noisy(white, 20, seed=2), generator())
    assert distance == (pytest.approx((2 / torch.pi) ** 0.5, rel=0.05),)


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (pictures(3), pictures(4), "3 real and 4 generated"),
        (pictures(3), pictures(3, 64), "32 x 32 and 64 x 64 px"),
        (pictures(3), pictures(3, channels=4), "channels: real have 3, generated 4"),
        (pictures(3)[:0], pictures(3), r"real: pictures are uint8 \(0, 3, 32, 32\)"),
        (pictures(3).float(), pictures(3), "real: pictures are float32"),
        (pictures(3, 6), pictures(3, 6), "6 x 6 px; at least 7 px"),
    ],
)
def test_what_cannot_be_compared_is_refused(real, generated, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(real, generated, generator())
