"""Formulas of guidance: the std that rescaling keeps, the bounds of the threshold, the noise of annealed conditions."""

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion.guidance import annealed, clean_share, rescaled, thresholded


@pytest.fixture
def pictures(generator):
    """(guided, cond) (4, 3, 8, 8): the guided one is wider and brighter."""
    cond = 0.4 * torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    guided = 0.5 + 3 * cond + torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    return guided, cond


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_rescaled_has_moments_in_between(pictures, share):
    guided, cond = pictures
    found = rescaled(guided, cond, share)
    stds = [each.flatten(1).std(1) for each in (guided, cond)]
    assert_close(found.flatten(1).std(1), (1 - share) * stds[0] + share * stds[1])
    means = [each.flatten(1).mean(1) for each in (guided, cond)]
    assert_close(found.flatten(1).mean(1), (1 - share) * means[0] + share * means[1])


def test_rescaling_by_nothing_and_of_a_flat_picture_changes_nothing(pictures):
    guided, cond = pictures
    assert_close(rescaled(guided, cond, 0.0), guided)
    flat = torch.full((1, 3, 4, 4), 0.25)
    assert torch.equal(rescaled(flat, flat, 1.0), flat)


@pytest.mark.parametrize("percentile", [0.0, 0.5, 0.9, 0.995])
def test_the_threshold_bounds_each_picture_and_is_reached(pictures, percentile):
    found = thresholded(pictures[0], percentile)
    assert found.abs().amax((1, 2, 3)).eq(1).all()
    shares = (found.abs() == 1).double().mean((1, 2, 3))
    beyond = (pictures[0].abs() > 1).double().mean((1, 2, 3)).clamp(max=1 - percentile)
    assert (shares >= beyond - 1 / 192).all()


def test_the_threshold_divides_by_the_percentile_and_only_clips_below_1():
    sizes = torch.tensor([0.5, 1.5, 2.0, 4.0])
    picture = (sizes * torch.tensor([1, -1, 1, -1])).reshape(1, 1, 2, 2)
    assert_close(thresholded(picture, 0.75).flatten(), torch.tensor([0.25, -0.75, 1.0, -1.0]))
    assert_close(thresholded(picture, 0.25).flatten(), torch.tensor([0.5, -1.0, 1.0, -1.0]))


def test_pictures_inside_the_bounds_stay_to_the_bit(generator):
    inside = torch.rand(3, 3, 8, 8, generator=generator) * 2 - 1
    assert torch.equal(thresholded(inside, 0.99), inside)


def test_images_do_not_depend_on_their_batch(pictures):
    guided, cond = (each.float() for each in pictures)
    for function in (lambda a, b: rescaled(a, b, 0.7), lambda a, b: thresholded(a, 0.9)):
        together = function(guided, cond)
        alone = torch.cat([function(guided[row : row + 1], cond[row : row + 1]) for row in range(4)])
        assert torch.equal(together, alone)


def test_the_share_of_the_clean_condition_falls_with_the_logarithm_of_the_level():
    levels = (0.1, 10.0)
    assert [clean_share(sigma, levels) for sigma in (0.05, 0.1, 10.0, 50.0)] == [1, 1, 0, 0]
    assert [clean_share(sigma, levels) for sigma in (0.1**0.5, 1.0, 10**0.5)] == pytest.approx([0.75, 0.5, 0.25])


def test_annealed_features_have_the_power_of_the_clean_ones(generator):
    features = 3 * torch.randn(3, 40, 512, generator=generator)
    eps = torch.randn(3, 40, 512, generator=generator)
    found = annealed(features, eps, (1.0, 0.4, 0.0), 1.0)
    assert torch.equal(found[0], features[0])
    assert_close(found.square().mean((1, 2)), features.square().mean((1, 2)), rtol=0.02, atol=0)
    rms = features.square().mean(-1, keepdim=True).sqrt()
    assert_close(found[2], rms[2] * eps[2])
    assert_close(found[1], 0.4**0.5 * features[1] + 0.6**0.5 * rms[1] * eps[1])
