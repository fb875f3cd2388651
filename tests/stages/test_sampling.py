"""Sampling one stage: image k is a function of (seed, index, stage) alone, and augmentation goes by one expression."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from data.resize import upsample
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS
from stages.handover import sample_until
from stages.sampling import conditioned, image_noise, noise_of, sample_alone, start
from tests.worlds import finite_cascade

SIZES = (4, 8, 16)


@pytest.fixture
def cascade(generator):
    return finite_cascade(torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1, SIZES)


def run(cascade, index, aug_sigma, sample=None):
    """The finished pictures of every stage, and which of the data they show."""
    picture, shown = None, []
    for name, stage in cascade.items():
        shape = torch.Size((len(index), 3, stage.config.resolution, stage.config.resolution))
        noise = noise_of(name, 0, index, "cpu")
        settings = (sample or stage.config.sample).model_copy(update={"aug_sigma": aug_sigma})
        cond = conditioned(stage, Cond.empty(len(index)), picture, settings, noise)
        picture = sample_alone(stage, settings, cond, noise, shape)
        which, error = stage.world.nearest(picture)
        assert error.max() < 1e-5
        shown.append(which)
    return picture, shown


def test_a_whole_cascade_without_training(cascade):
    _, shown = run(cascade, torch.arange(24), 0.0)
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])
    assert len(set(shown[0].tolist())) > 4  # and it does not paint one picture only


def test_more_augmentation_keeps_less_of_the_low_res(cascade):
    """The knob: identity is kept at small aug_sigma and lost at large."""
    kept = []
    for aug_sigma in (0.0, 1.0, 10.0):
        _, shown = run(cascade, torch.arange(64), aug_sigma)
        kept.append((shown[0] == shown[2]).double().mean().item())
    assert kept[0] == 1
    assert kept[0] > kept[1] > kept[2]
    assert kept[2] < 0.5


def test_image_k_does_not_depend_on_the_batch(cascade):
    together, _ = run(cascade, torch.tensor([7, 3, 11]), 0.3)
    alone, _ = run(cascade, torch.tensor([3]), 0.3)
    assert_close(together[1:2], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_noise_on_the_way_of_image_k_does_not_depend_on_the_batch(cascade, sampler):
    """Stopped at a level, where all that was drawn is still seen; with options under which those draw that can."""
    drawing = {"churn": 20.0, "eta": 1.0}
    options = {name: value for name, value in drawing.items() if name in SAMPLERS[sampler].options}
    settings, stage = SampleConfig(sampler=sampler, num_steps=8, **options), cascade["base_4"]

    def stopped(*index: int) -> torch.Tensor:
        noise = noise_of("base_4", 0, torch.tensor(index), "cpu")
        return sample_until(stage, settings, Cond.empty(len(index)), noise, (len(index), 3, 4, 4), 0.5).x

    together, alone = stopped(7, 3, 11), stopped(3)
    assert_close(together[1:2], alone, rtol=0, atol=1e-6)
    assert (together[1] - together[0]).abs().max() > 0.1


def test_stages_purposes_seeds_and_indices_have_their_own_noise():
    index = torch.tensor([0, 1])
    shape = (3, 8, 8)
    draws = [
        image_noise(stage, seed, index, purpose, shape, "cpu")
        for stage, seed, purpose in [("a", 0, "start"), ("b", 0, "start"), ("a", 1, "start"), ("a", 0, "aug")]
    ]
    rows = torch.cat(draws).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(8)
    assert correlation.abs().max() < 5 / rows.shape[1] ** 0.5


def test_aug_sigma_zero_is_exactly_upsample(cascade, generator):
    stage = cascade["sr_8"]
    low_res, noise = torch.rand(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 8, 8, generator=generator)
    cond = conditioned(stage, Cond.empty(2), low_res, SampleConfig(aug_sigma=0.0), lambda purpose, shape: noise)
    assert torch.equal(cond.value("low_res"), upsample(low_res, (8, 8)))


def test_the_level_told_is_the_level_applied(cascade, generator):
    stage = cascade["sr_16"]
    low_res, noise = torch.rand(2, 3, 8, 8, generator=generator), torch.randn(2, 3, 16, 16, generator=generator)
    cond = conditioned(stage, Cond.empty(2), low_res, SampleConfig(aug_sigma=0.7), lambda purpose, shape: noise)
    added, aug_sigma = cond.value("low_res") - stage.enlarge(low_res), cond.value("aug")
    assert_close(added / aug_sigma[:, None, None, None], noise, rtol=0, atol=1e-5)


def test_start_stands_sigma_max_away_from_what_is_known(cascade, generator):
    eps, low_res, x0 = torch.randn(3, 2, 3, 8, 8, generator=generator)
    settings, cond = SampleConfig(sigma_max=7.0), Cond.empty(2).given(low_res=low_res, aug=torch.zeros(2))
    drawn: list[tuple[str, tuple[int, ...]]] = []

    def noise(purpose, shape):
        drawn.append((purpose, shape))
        return eps

    base = next(start(settings, noise, Cond.empty(2), eps.shape))
    super_res = next(start(settings, noise, cond, eps.shape))
    again = next(start(settings, noise, cond, eps.shape, x0=x0))
    assert torch.equal(base.x, eps * 7)
    assert torch.equal(super_res.x, low_res + eps * 7)
    assert torch.equal(again.x, x0 + eps * 7)
    assert super_res.sigma.tolist() == [7.0, 7.0]
    assert drawn == [("start", eps.shape)] * 3


def test_super_resolution_arrives_from_a_low_sigma_max(cascade):
    """The start's error is what upsampling lost, so a sigma_max of its size is high enough, and 1.0 is plenty."""
    stage = cascade["sr_16"]
    low_res = stage.world.low_res.float()
    noise = noise_of("sr_16", 1, torch.arange(8), "cpu")
    cond = Cond.empty(8).given(low_res=low_res, aug=torch.full((8,), 0.05))
    found = sample_alone(stage, SampleConfig(sigma_max=1.0, num_steps=8), cond, noise, low_res.shape)
    assert stage.world.nearest(found)[0].tolist() == list(range(8))


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_can_be_asked_for(cascade, sampler):
    run(cascade, torch.arange(2), 0.1, SampleConfig(sampler=sampler, num_steps=8))
