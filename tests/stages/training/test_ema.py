"""Averages of weights against the sum they stand for, written out; the learning rate against its formulas."""

import math

import pytest
import torch
from torch.testing import assert_close

from stages.kinds.base import BaseStage
from stages.training.ema import Ema, decay_of, save_averages
from stages.training.schedule import lr_at
from tests.stages.tiny import base_config, train_config

BATCH, NUM = 8, 12


@pytest.fixture
def stage():
    torch.manual_seed(0)
    return BaseStage(base_config())


@pytest.mark.parametrize("half_life", [1, 8, 40, 10**6])
def test_average_is_the_weighted_sum_of_all_weights(half_life, stage, generator):
    """sum_k (1 - d_k) prod_(j>k) d_j weight_k + prod_j d_j weight_0, in float64."""
    ema = Ema(stage, (half_life, 3))
    name = "net.conv_in.weight"
    weight = stage.get_parameter(name)
    seen, decays = [weight.detach().double().clone()], []
    for k in range(1, NUM + 1):
        weight.data.normal_(generator=generator)
        seen.append(weight.detach().double().clone())
        ema.update(stage, nimg=k * BATCH, batch=BATCH)
        decays.append(0.5 ** (BATCH / min(half_life, 0.1 * k * BATCH)))
    factors = [math.prod(decays)] + [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    assert sum(factors) == pytest.approx(1)
    expected = sum(factor * each for factor, each in zip(factors, seen, strict=True))
    assert_close(ema.copies()[half_life][name].double(), expected, rtol=1e-5, atol=1e-6)


def test_after_a_half_life_half_of_the_old_average_is_left():
    assert decay_of(1000, nimg=10**9, batch=1000) == 0.5
    assert decay_of(1000, nimg=10**9, batch=250) ** 4 == pytest.approx(0.5)
    assert decay_of(1000, nimg=500, batch=50) == 0.5  # a tenth of what was seen, early on


def test_a_half_life_means_the_same_at_every_batch_size():
    """Late in a run, twice the batch decays as two updates do."""
    assert decay_of(4096, nimg=10**6, batch=64) == pytest.approx(decay_of(4096, nimg=10**6, batch=32) ** 2)


def test_averages_are_of_their_own_and_ready_to_sample(stage):
    ema = Ema(stage, (16, 64))
    stage.net.out_gain.data.fill_(3.0)
    assert ema.copies()[16]["net.out_gain"] == 0
    assert not ema.module(16).training
    ema.update(stage, nimg=800, batch=16)
    assert ema.copies()[16]["net.out_gain"].item() == pytest.approx(1.5)
    assert ema.copies()[64]["net.out_gain"].item() == pytest.approx(3 * (1 - 0.5**0.25))
    assert torch.equal(ema.copies()[16]["net.embedding.fourier.phase"], stage.net.embedding.fourier.phase)


def test_copies_stay_as_they_were(stage):
    ema = Ema(stage, (16,))
    copy = ema.copies()[16]["net.conv_in.weight"]
    before = copy.clone()
    stage.net.conv_in.weight.data.zero_()
    ema.update(stage, nimg=8, batch=8)
    assert torch.equal(copy, before)


def test_saved_averages_come_back_bit_for_bit(stage, tmp_path, generator):
    ema = Ema(stage, (16, 64))
    stage.net.conv_in.weight.data.normal_(generator=generator)
    ema.update(stage, nimg=8, batch=8)
    save_averages(ema.copies(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ema-16.safetensors", "ema-64.safetensors"}
    torch.manual_seed(1)
    other = Ema(BaseStage(base_config()), (16, 64))
    assert other.load(tmp_path, {}, 8) == []
    for half_life in (16, 64):
        assert_close(other.copies()[half_life], ema.copies()[half_life], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("schedule", "nimg", "share"),
    [
        ("constant", 0, 0.0), ("constant", 50, 0.5), ("constant", 100, 1.0), ("constant", 10**6, 1.0),
        ("cosine", 50, 0.5), ("cosine", 100, 1.0), ("cosine", 300, (1 + 0.5**0.5) / 2), ("cosine", 500, 0.5), ("cosine", 900, 0.0),
        ("cosine", 2000, 0.0),
        ("rsqrt", 25, 0.25), ("rsqrt", 100, 1.0), ("rsqrt", 400, 0.5), ("rsqrt", 10**6, 0.01),
    ],
)  # fmt: skip
def test_learning_rate(schedule, nimg, share):
    config = train_config(lr=0.02, warmup=100, images=900, schedule=schedule)
    assert lr_at(config, nimg) == pytest.approx(0.02 * share, abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate_without_warm_up_is_finite_from_the_start(schedule):
    config = train_config(lr=0.02, warmup=0, schedule=schedule)
    assert lr_at(config, 0) in (0.0, 0.02)
    assert all(0 <= lr_at(config, nimg) <= 0.02 for nimg in range(0, 96, 8))


def test_rsqrt_has_nothing_to_fall_from_without_a_warm_up():
    """It would be a hundredth of `lr` after 10,000 images, whatever the length of the run."""
    with pytest.raises(ValueError, match=r"rsqrt falls from the end of the warm-up on.*instance 20000"):
        train_config(warmup=0, schedule="rsqrt", images=200_000)
