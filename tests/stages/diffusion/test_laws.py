"""Laws of training levels: inverse distribution functions, checked by the uniform that they came from."""

import math

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion import laws
from stages.diffusion.noise import alpha_bar, lognormal_sigma
from stages.objectives.law_config import LAWS, LinearConfig, LogUniformConfig
from stages.objectives.weights import midpoints

U = midpoints(1000)
LOW, HIGH = 0.002, 80.0


def between(begin: float, end: float) -> torch.Tensor:
    return begin + U * (end - begin)


def test_log_uniform():
    assert_close(laws.log_uniform(U, low=LOW, high=HIGH).log(), between(math.log(LOW), math.log(HIGH)))


def test_cosine():
    """alpha_bar = cos(pi t / 2)^2 with t uniform between those of low and high."""
    t = 2 / math.pi * alpha_bar(laws.cosine(U, low=LOW, high=HIGH)).sqrt().acos()
    assert_close(t, between(2 / math.pi * math.atan(LOW), 2 / math.pi * math.atan(HIGH)), rtol=1e-9, atol=1e-12)


def test_linear_against_the_product_of_a_thousand_betas():
    """DDPM's alpha_bar at step k of 1000 is that of t = k / 1000 to the order of the step."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma = (1 / (1 - betas).cumprod(0) - 1).sqrt()
    t = torch.tensor([laws.linear_time(each) for each in sigma.tolist()])
    assert_close(t, torch.arange(1, 1001) / 1000, rtol=0, atol=6e-3)
    assert laws.linear_time(laws.LINEAR_MAX) == pytest.approx(1, abs=1e-12)
    drawn = laws.linear(U, low=LOW, high=HIGH)
    expected = between(laws.linear_time(LOW), laws.linear_time(HIGH))
    assert_close(torch.tensor([laws.linear_time(each) for each in drawn.tolist()], dtype=torch.float64), expected)


def test_a_logit_normal_time_is_a_lognormal_level():
    """t = sigmoid(N(mean, std^2)) and sigma = t / (1 - t)."""
    t = (0.3 + 0.8 * torch.special.ndtri(U)).sigmoid()
    assert_close(laws.logit_normal(U, mean=0.3, std=0.8), t / (1 - t))
    assert torch.equal(laws.logit_normal(U, mean=-1.2, std=1.2), lognormal_sigma(U, mean=-1.2, std=1.2))


@pytest.mark.parametrize("kind", LAWS)
def test_levels_rise_and_are_finite_for_every_uniform(kind):
    from stages.config import NoiseConfig

    law = LAWS[kind](kind=kind).law(NoiseConfig())
    sigma = law(torch.tensor([0.0, 2**-53, 1e-9, 0.3, 0.7, 1 - 2**-53], dtype=torch.float64))
    assert sigma.isfinite().all()
    assert (sigma > 0).all()
    assert (sigma.diff() >= 0).all()


def test_bad_ranges():
    with pytest.raises(ValueError, match=r"low 3.0 must be below high 3.0"):
        LogUniformConfig(low=3, high=3)
    with pytest.raises(ValueError, match=r"high 200.0 is above 152.2, where the linear schedule ends"):
        LinearConfig(high=200)
