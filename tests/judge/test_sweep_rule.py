"""The rule of a sweep on scores that are known: what is closer than the spread is equal, and the cheaper of equals is taken."""

import pytest
import torch

from cascade.judge.estimate import Estimate
from cascade.judge.fidelity import psnr
from cascade.judge.sweep_rule import MATCH, PSNR, SWD, Trial, choose, scores_of, spoilt, verdict
from cascade.judge.sweep_setup import Setup
from data.alpha import on_background
from stages.config import SampleConfig

from .laws import noisy, pictures

NOISE = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def estimate(value, own):
    """A mean of 50 numbers that share most of their noise with the others; own: std of what they do not share."""
    generator = torch.Generator().manual_seed(round(1000 * value) + 7)
    other = torch.randn(50, generator=generator, dtype=torch.float64)
    return Estimate.of_mean(value + NOISE - NOISE.mean() + own * (other - other.mean()))


def trial(calls, step=1, num_steps=None, own=0.01, **scores):
    setup = Setup(sample=SampleConfig(num_steps=num_steps or calls))
    values = {name: estimate(value, own) for name, value in scores.items()}
    return Trial(setup=setup, step=step, calls=calls, seconds=1.0, scores=values)


def test_a_gain_beyond_the_spread_is_taken_whatever_it_costs():
    start, better = trial(4, step=0, SWD=0.5), trial(32, SWD=0.4)
    assert choose([start, better]) is better
    assert verdict(better, [start, better], 0).startswith("better: SWD -0.1000 +- 0.00")


def test_a_gain_below_the_spread_is_told_and_not_paid_for():
    """The scores themselves are known to 0.14 only, their difference far better; with own noise of 1 it is not."""
    start, hardly = trial(4, step=0, SWD=0.5, own=1.0), trial(32, SWD=0.45, own=1.0)
    assert start.scores[SWD].error > 0.1
    assert choose([start, hardly]) is start
    assert "the gain is below the spread (SWD -0.05" in verdict(start, [start, hardly], 0)


def test_of_equals_the_cheapest_is_taken():
    start, dear, cheap = trial(32, step=0, SWD=0.5, own=1.0), trial(64, SWD=0.45, own=1.0), trial(4, SWD=0.55, own=1.0)
    assert choose([start, dear, cheap]) is cheap
    told = verdict(cheap, [start, dear, cheap], 0)
    assert "as good within the spread" in told
    assert "4 calls a picture instead of 32" in told
    assert "the gain is below the spread" in told


def test_of_equals_at_one_price_the_earlier_stays_and_within_one_coordinate_the_better():
    start, later = trial(8, step=0, SWD=0.5, own=1.0), trial(8, step=1, num_steps=7, SWD=0.45, own=1.0)
    assert choose([start, later]) is start
    first, second = trial(8, step=1, SWD=0.25, own=0.1), trial(8, step=1, num_steps=7, SWD=0.245, own=0.1)
    assert choose([start, first, second]) is second


def test_what_spoils_the_second_score_is_not_taken():
    """Guidance off has the better distance here, and pictures that no longer show what was asked for."""
    start, off = trial(32, step=0, SWD=0.5, match=0.9), trial(16, SWD=0.3, match=0.8)
    assert spoilt(off, start, 0) == MATCH
    assert choose([start, off]) is start
    assert choose([start, trial(16, SWD=0.3, match=0.95)]).calls == 16


def test_psnr_has_a_floor_and_no_more():
    """A higher aug_sigma always costs PSNR on true low_res; below enlarging by itself, and below the start, it is refused."""
    start = trial(4, step=0, SWD=0.5, PSNR=25)
    less, least = (trial(4, num_steps=n, SWD=0.3, PSNR=value) for n, value in ((3, 23), (2, 20)))
    assert choose([start, less], floor=21.5) is less
    assert spoilt(least, start, 21.5) == PSNR
    assert choose([start, least], floor=21.5) is start
    assert choose([trial(4, step=0, SWD=0.5, PSNR=19), least], floor=21.5) is least


def test_the_scores_of_a_stage():
    real, made = pictures(20, 32), noisy(pictures(20, 32), 20)
    of_base, of_upper = (
        scores_of(real, made, 0, matched=True),
        scores_of(real, made, 0, matched=False, from_true=real),
    )
    assert list(of_base) == [SWD, MATCH]
    assert list(of_upper) == [SWD, PSNR]
    assert of_upper[PSNR].value == 100
    assert scores_of(real, made, 0, matched=True)[SWD].value == of_base[SWD].value
    assert of_base[SWD].value > 3 * scores_of(real, real, 0, matched=True)[SWD].value
    assert of_base[MATCH].value > 0.9


@pytest.mark.parametrize(("matched", "names"), [(True, ["KID", "match"]), (False, ["KID", "SWD"])])
def test_kid_decides_where_there_are_enough(matched, names):
    real, made = pictures(320, 16), pictures(320, 16, seed=1)
    assert list(scores_of(real, made, 0, matched=matched)) == names


def test_transparent_pictures_are_judged_on_white_and_their_psnr_with_alpha():
    truth, made = pictures(40, 16, channels=4), pictures(40, 16, seed=1, channels=4)
    scores = scores_of(truth, made, 0, matched=True, from_true=made)
    flat = scores_of(on_background(truth), on_background(made), 0, matched=True)
    assert [scores[name].value for name in (SWD, MATCH)] == [flat[name].value for name in (SWD, MATCH)]
    assert scores[PSNR].value == psnr(made, truth).mean().item()
