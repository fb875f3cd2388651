"""Classifier-free guidance, and what it costs: which rows reach the network, at which levels."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.config import BaseConfig, CondConfig, SampleConfig
from stages.diffusion.guidance import guide, is_guided
from stages.sampling import guided, noise_of, sample_alone
from tests.worlds import TINY_NET, FiniteStage, finite_cascade, finite_stage

LABEL = torch.tensor([0, 1, 1])


@pytest.fixture
def stage(generator) -> FiniteStage:
    images = torch.rand(6, 3, 4, 4, generator=generator) * 2 - 1
    config = BaseConfig(resolution=4, net=TINY_NET, cond=CondConfig(num_classes=2))
    return finite_stage(config, images, labels=torch.tensor([0, 0, 0, 1, 1, 1]))


@pytest.fixture
def given() -> Cond:
    return Cond.empty(3).given(label=LABEL)


def ask(stage, given, sigma=1.0, **settings):
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    level = torch.full((3,), sigma)
    found = guided(stage, SampleConfig(**settings), given)(x, level)
    rows = [len(call.x) for call in stage.asked]
    cond, null = (stage.denoise(x, level, part).x0_hat for part in (given, given.dropped(["label"])))
    return found, rows, cond, null


def test_scale_1_is_exactly_one_conditional_call(stage, given):
    found, rows, cond, _ = ask(stage, given, guidance_scale=1.0)
    assert rows == [3]
    assert torch.equal(found, cond)
    assert stage.asked[0].cond.parts["label"].keep.all()


def test_scale_0_is_the_null_condition(stage, given):
    found, rows, _, null = ask(stage, given, guidance_scale=0.0)
    assert rows == [6]
    assert_close(found, null, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_formula_and_one_shared_call(stage, given, scale):
    found, rows, cond, null = ask(stage, given, guidance_scale=scale)
    assert rows == [6]
    assert (cond - null).abs().max() > 0.01
    assert_close(found, (1 - scale) * null + scale * cond, rtol=1e-5, atol=1e-5)


def test_the_other_convention_counts_from_zero(generator):
    cond, null = torch.randn(2, 3, 1, 2, 2, generator=generator)
    w = torch.tensor([0.0, 1.0, 3.5])
    assert_close(guide(cond, null, w + 1), (1 + w)[:, None, None, None] * cond - w[:, None, None, None] * null)


def test_rows_may_have_different_scales(generator):
    cond, null = torch.randn(2, 3, 1, 2, 2, generator=generator)
    found = guide(cond, null, torch.tensor([0.0, 1.0, 2.0]))
    assert_close(found, torch.stack([null[0], cond[1], 2 * cond[2] - null[2]]))


@pytest.mark.parametrize(("sigma", "inside"), [(0.25, False), (0.5, True), (2.0, True), (2.5, False)])
def test_outside_the_interval_no_null_call(stage, given, sigma, inside):
    _, rows, _, _ = ask(stage, given, sigma=sigma, guidance_scale=3.0, guidance_interval=(0.25, 2.0))
    assert rows == [6 if inside else 3]


def test_is_guided_is_open_below_and_closed_above():
    assert not is_guided(1.0, 1.0, (0.0, 1e9))
    assert [is_guided(2.0, sigma, (0.5, 2.0)) for sigma in (0.5, 0.6, 2.0, 2.1)] == [False, True, True, False]


@pytest.mark.parametrize(("settings", "rows"), [((1.0, (0.0, 1e9)), [2] * 8), ((2.0, (0.3, 3.0)), None)])
def test_rows_over_a_whole_sampling(stage, settings, rows):
    scale, interval = settings
    sample = SampleConfig(num_steps=8, guidance_scale=scale, guidance_interval=interval)
    given = Cond.empty(2).given(label=torch.tensor([0, 1]))
    sample_alone(stage, sample, given, noise_of("s", 0, torch.arange(2), "cpu"), (2, 3, 4, 4))
    levels = [call.sigma[0].item() for call in stage.asked]
    expected = rows or [4 if 0.3 < sigma <= 3.0 else 2 for sigma in levels]
    assert [len(call.x) for call in stage.asked] == expected
    assert set(expected) == ({2} if rows else {2, 4})


def test_the_label_decides_the_picture(stage, given):
    noise = noise_of("s", 0, torch.arange(3), "cpu")
    which, error = stage.world.nearest(sample_alone(stage, SampleConfig(), given, noise, (3, 3, 4, 4)))
    assert stage.world.labels[which].tolist() == LABEL.tolist()
    assert error.max() < 1e-5


def test_low_res_and_its_level_ride_along_twice(generator):
    images = torch.rand(4, 3, 8, 8, generator=generator) * 2 - 1
    stage = finite_cascade(images, (4, 8), labels=torch.arange(4))["sr_8"]
    level = torch.tensor([0.1, 0.2])
    low_res = stage.world.low_res[:2].float()
    given = Cond.empty(2).given(label=torch.tensor([1, 2]), low_res=low_res, aug=level)
    x, sigma = torch.randn(2, 3, 8, 8, generator=generator), torch.ones(2)
    found = guided(stage, SampleConfig(guidance_scale=2.0), given)(x, sigma)
    (call,) = stage.asked
    assert torch.equal(call.aug_sigma, level.repeat(2))
    assert torch.equal(call.low_res, low_res.repeat(2, 1, 1, 1))
    assert call.cond.parts["label"].keep.tolist() == [True, True, False, False]
    null = stage.denoise(x, sigma, given.dropped(["label"])).x0_hat
    cond = stage.denoise(x, sigma, given).x0_hat
    assert_close(found, 2 * cond - null, rtol=1e-5, atol=1e-5)
