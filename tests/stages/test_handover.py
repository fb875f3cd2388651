"""Truncated sampling: what stops at a level has that level's marginal, can be finished, and is a condition of the next stage."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from data.resize import upsample
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS
from stages.handover import UPSAMPLED, Handover, finish, given_noisy, sample_until
from stages.sampling import noise_of, sample_alone
from tests.worlds import finite_cascade

SETTINGS = SampleConfig(num_steps=24)
SHAPE = torch.Size((64, 3, 8, 8))


@pytest.fixture
def cascade(generator):
    return finite_cascade(torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1, (8, 16))


def noise(stage="base_8"):
    return noise_of(stage, 0, torch.arange(64), "cpu")


@pytest.mark.parametrize(
    "sampler", [name for name, kind in SAMPLERS.items() if name not in ("langevin", "consistency")]
)
def test_it_stops_at_the_level_with_its_noise(cascade, sampler):
    """Around the picture that it shows, each pixel has noise of that std; small steps, for some samplers are of first order."""
    stage, settings = cascade["base_8"], SampleConfig(num_steps=200, sampler=sampler)
    if sampler == "ddpm":
        settings = SampleConfig(num_steps=200, sampler=sampler, variance="small")
    handed = sample_until(stage, settings, Cond.empty(64), noise(), SHAPE, 0.1)
    assert handed.sigma == 0.1
    which, _ = stage.world.nearest(handed.x)
    std = (handed.x - stage.world.images[which]).std()
    assert std.item() == pytest.approx(0.1, rel=0.04)


def test_finished_it_is_the_picture_of_the_undisturbed_stage(cascade):
    stage = cascade["base_8"]
    handed = sample_until(stage, SETTINGS, Cond.empty(64), noise(), SHAPE, 0.3)
    whole = sample_alone(stage, SETTINGS, Cond.empty(64), noise(), SHAPE)
    assert_close(finish(stage, SETTINGS, Cond.empty(64), noise(), handed), whole, rtol=0, atol=1e-5)


def test_the_next_stage_is_told_the_noise_that_upsampling_leaves(cascade, generator):
    stage, x0 = cascade["sr_16"], torch.zeros(64, 3, 8, 8)
    cond = given_noisy(
        stage, Cond.empty(64), Handover(x=x0 + 0.5 * torch.randn(x0.shape, generator=generator), sigma=0.5)
    )
    assert_close(cond.value("aug"), torch.full((64,), 0.5 * UPSAMPLED))
    inner = cond.value("low_res")[..., 4:-4, 4:-4]  # at the border, where pixels are repeated, it is more
    assert inner.std().item() == pytest.approx(0.5 * UPSAMPLED, rel=0.03)


def test_the_factor_is_that_of_the_resize_pair():
    """Away from the border; the numbers of the module's docstring and of the README, exact by one impulse after the other."""
    impulses = torch.eye(144, dtype=torch.float64).reshape(144, 1, 12, 12)
    answers = upsample(impulses, (48, 48))[:, 0, 16:-16, 16:-16]
    variance = answers.square().sum(0)
    assert variance.mean().sqrt().item() == pytest.approx(UPSAMPLED, abs=0.001)
    cells = variance.reshape(4, 4, 4, 4).mean((0, 2)).sqrt()
    assert [cells.min().item(), cells.max().item()] == pytest.approx([0.69, 0.94], abs=0.005)
    neighbours = (answers[..., 1:] * answers[..., :-1]).sum(0).mean() / variance.mean()
    assert neighbours.item() == pytest.approx(0.93, abs=0.005)


def test_the_next_stage_keeps_the_picture(cascade):
    base, stage = cascade["base_8"], cascade["sr_16"]
    handed = sample_until(base, SETTINGS, Cond.empty(64), noise(), SHAPE, 0.1)
    cond = given_noisy(stage, Cond.empty(64), handed)
    larger = sample_alone(stage, SETTINGS, cond, noise("sr_16"), torch.Size((64, 3, 16, 16)))
    assert torch.equal(stage.world.nearest(larger)[0], base.world.nearest(handed.x)[0])


@pytest.mark.parametrize("sigma_end", [0.0, 0.001, 80.0, 100.0, float("nan")])
def test_levels_where_it_cannot_stop(cascade, sigma_end):
    with pytest.raises(
        ValueError, match=r"^sigma_end [^\n]* must be from 0.005, the lowest level, to below 80, the highest$"
    ):
        sample_until(cascade["base_8"], SETTINGS, Cond.empty(64), noise(), SHAPE, sigma_end)


def test_more_noise_than_the_next_stage_knows(cascade):
    with pytest.raises(ValueError, match="above 10, the largest the stage was trained on; stop at a lower level"):
        given_noisy(cascade["sr_16"], Cond.empty(64), Handover(x=torch.zeros(SHAPE), sigma=13.0))
