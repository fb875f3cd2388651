"""Learned variance: exact at the start, and what it means for a step, against normal data in float64."""

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion.parametrisation import EDM
from stages.diffusion.variance import WithVariance, interpolated, interpolation, large, small, step_variance
from tests.worlds import GaussianData

STEPS = [(80.0, 20.0), (1.0, 0.5), (0.1, 0.01)]


@pytest.mark.parametrize("low_sigma", [None, 0.3])
def test_a_fresh_network_has_the_variance_of_normal_data(low_sigma, generator):
    """With F = 0: 1 / (1/sigma_data^2 + 1/sigma^2 + 1/s^2)."""
    sigma, aug = torch.tensor([0.1, 1.0, 10.0]), None if low_sigma is None else torch.zeros(3)
    world = GaussianData(mean=torch.zeros(2, 4, 4), std=torch.full((2, 4, 4), 0.5))
    x = torch.randn(3, 2, 4, 4, generator=generator)
    low_res = None if low_sigma is None else torch.randn(3, 2, 4, 4, generator=generator)
    given = WithVariance(inner=EDM(sigma_data=0.5, low_res_sigma=low_sigma))
    answer = given.estimate(torch.zeros(3, 4, 4, 4), x, sigma, low_res, aug)
    expected = world.risk(sigma, None if low_sigma is None else torch.full((3,), low_sigma))
    assert_close(answer.var, expected.float()[:, None, None, None].expand(3, 2, 4, 4))
    assert torch.equal(answer.x0_hat, given.inner.estimate(torch.zeros(3, 2, 4, 4), x, sigma, low_res, aug).x0_hat)


@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("var", [0.04, 1.0, 3.0])
def test_a_step_of_normal_data(t, s, var):
    """x_t = x_s + sqrt(t^2 - s^2) z, so Var(x_s | x_t) = (var + s^2) (t^2 - s^2) / (var + t^2)."""
    posterior = torch.tensor(var * t**2 / (var + t**2), dtype=torch.float64)
    assert step_variance(posterior, t, s).item() == pytest.approx(
        (var + s**2) * (t**2 - s**2) / (var + t**2), rel=1e-12
    )


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_nichols_interpolation(t, s):
    """0 is the small variance, of data that is known; 1 the large one, of N(0, 1); it turns back."""
    ends = interpolated(torch.tensor([0.0, 1.0], dtype=torch.float64), t, s)
    assert ends.tolist() == pytest.approx([small(t, s), large(t, s)], rel=1e-12)
    known = torch.tensor([0.0, t**2 / (1 + t**2)], dtype=torch.float64)
    assert_close(interpolation(step_variance(known, t, s), t, s), torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-9)
    v = torch.linspace(-0.5, 1.5, 9, dtype=torch.float64)
    assert_close(interpolation(interpolated(v, t, s), t, s), v, rtol=0, atol=1e-9)
