"""Corrections of x0 by low_res: the formulas, at which levels they act, and that a picture that agrees is left as it is."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from data.resize import downsample, upsample
from stages.config import SampleConfig
from stages.consistency import FLAT, agreement, consistent, recoloured
from stages.diffusion.samplers import Answer, Query
from stages.sampling import conditioned, noise_of, sample_alone
from stages.spaces.pixels_config import PixelsConfig
from tests.worlds import finite_cascade

SPACE = PixelsConfig.defaults().build()
LOW, SIDE = (4, 4), (16, 16)


@pytest.fixture
def x0(generator):
    return (torch.rand(3, 3, *SIDE, generator=generator, dtype=torch.float64) - 0.5) * 1.2


@pytest.fixture
def low_res(generator):
    return (torch.rand(3, 3, *LOW, generator=generator, dtype=torch.float64) - 0.5) * 1.2


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_consistency_is_one_step_of_back_projection(x0, low_res, weight):
    assert_close(
        consistent(x0, low_res, SPACE, weight),
        x0 + weight * upsample(low_res - downsample(x0, LOW), SIDE),
        rtol=0,
        atol=0,
    )


def test_what_agrees_is_left_bit_for_bit(x0):
    assert torch.equal(consistent(x0, downsample(x0, LOW), SPACE, 1.0), x0)


def test_what_is_out_of_bounds_is_judged_as_it_would_be_stored(x0):
    far = 3 * x0
    assert torch.equal(consistent(far, downsample(far.clamp(-1, 1), LOW), SPACE, 1.0), far.clamp(-1, 1))


def test_a_step_removes_most_of_the_difference(x0, low_res):
    """U then d is no identity; of the difference of random pictures, noise, 0.31 was left here."""
    before, after = (
        (low_res - downsample(picture, LOW)).square().sum().sqrt()
        for picture in (x0, consistent(x0, low_res, SPACE, 1.0))
    )
    assert after < 0.4 * before


def test_colours_become_those_of_low_res(x0, low_res):
    found = downsample(recoloured(x0, low_res, SPACE, 1.0), LOW)
    for moment in (torch.mean, lambda image, axes: image.std(axes, correction=0)):
        assert_close(moment(found, (2, 3)), moment(low_res, (2, 3)), rtol=1e-12, atol=1e-12)
    half = recoloured(x0, low_res, SPACE, 0.5)
    assert_close(half, (x0 + recoloured(x0, low_res, SPACE, 1.0)) / 2, rtol=0, atol=1e-15)


def test_a_flat_channel_has_only_a_mean_to_move(low_res):
    flat = torch.full((3, 3, *SIDE), 0.3, dtype=torch.float64) + FLAT / 10
    found = recoloured(flat, low_res, SPACE, 1.0)
    assert_close(found, low_res.mean((2, 3), keepdim=True).expand_as(flat), rtol=0, atol=1e-12)


def test_answers_are_corrected_at_their_levels_and_rows_alone(x0, low_res):
    settings = SampleConfig(consistency=1.0, consistency_sigma=0.5)
    (shaper,) = agreement(settings, low_res, SPACE)
    levels, rows = torch.tensor([0.5, 0.6]), torch.tensor([2, 0])
    answer = shaper.each(Query(x0[rows], levels, rows), Answer(x0[rows])).x0_hat
    assert torch.equal(answer[1], x0[0])
    assert torch.equal(answer[0], consistent(x0[2:], low_res[2:], SPACE, 1.0)[0])


def test_without_settings_or_low_res_there_is_nothing_to_do(low_res):
    assert agreement(SampleConfig(), low_res, SPACE) == []
    assert agreement(SampleConfig(consistency=1.0), None, SPACE) == []


def test_a_stage_that_lost_its_condition_is_brought_back(generator):
    """At aug_sigma 10 the ideal denoiser ignores low_res; corrected, its pictures shrink to it again."""
    stage = finite_cascade(torch.rand(8, 3, 8, 8, generator=generator) - 0.5, (4, 8))["sr_8"]
    low_res = stage.space.down(stage.world.images[:6].float(), LOW)
    apart = []
    for consistency, sigma in ((0.0, 0.0), (1.0, 0.0), (1.0, 80.0)):
        settings = SampleConfig(aug_sigma=10.0, num_steps=6, consistency=consistency, consistency_sigma=sigma)
        noise = noise_of("sr_8", 1, torch.arange(6), "cpu")
        cond = conditioned(stage, Cond.empty(6), low_res, settings, noise)
        x0 = sample_alone(stage, settings, cond, noise, (6, 3, 8, 8), low_res)
        apart.append((downsample(x0, LOW) - low_res).abs().mean().item())
    assert apart[1] < 0.3 * apart[0]
    assert apart[2] < 0.3 * apart[0]
