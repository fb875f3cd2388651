"""Levels of noise: views invert each other, grids follow EDM, training levels have the promised distribution."""

import math

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion.corrupt import add_noise, augment, expand_to, normals, score, uniforms
from stages.diffusion.noise import (
    BETAS,
    alpha_bar,
    beta_table,
    lognormal_sigma,
    logsnr,
    power_grid,
    shift_for_resolution,
    sigma_from_alpha_bar,
)
from stages.randomness import generators
from tests.worlds import GaussianData

SIGMAS = torch.logspace(-3, 3, 61, dtype=torch.float64)


def test_views_round_trip():
    assert_close(sigma_from_alpha_bar(alpha_bar(SIGMAS)), SIGMAS, rtol=1e-9, atol=0)
    assert_close((-logsnr(SIGMAS) / 2).exp(), SIGMAS, rtol=1e-14, atol=0)


def test_alpha_bar_is_the_sigmoid_of_logsnr():
    assert_close(alpha_bar(SIGMAS), torch.sigmoid(logsnr(SIGMAS)), rtol=1e-13, atol=0)


def test_variance_preserving_view_preserves_variance(generator):
    x0, eps = torch.randn(2, 1, 1, 200, 200, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([3.0], dtype=torch.float64)
    vp = add_noise(x0, sigma, eps) * alpha_bar(sigma).sqrt()
    assert vp.var().item() == pytest.approx(1, abs=0.02)  # 40,000 draws: standard deviation 0.007


def test_a_ddpm_beta_table_is_a_grid_of_sigmas():
    """sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, divided by sqrt(alpha_bar), is x0 + sigma eps."""
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    sigma = sigma_from_alpha_bar(table)
    assert_close(sigma, (1 - table).sqrt() / table.sqrt(), rtol=1e-13, atol=0)
    assert sigma[0].item() == pytest.approx(0.0100005, rel=1e-6)
    assert sigma[-1].item() == pytest.approx(157.4, rel=1e-3)


@pytest.mark.parametrize("name", list(BETAS))
def test_the_closed_form_is_what_the_chain_of_single_steps_makes(name):
    """q(x_t given x_{t-1}) = N(sqrt(1 - beta) x_{t-1}, beta), step after step: x0's share and the variance are those of `add_noise`
    at the table's level, in DDPM's scale."""
    share, variance, found = 1.0, 0.0, []
    for beta in BETAS[name]().tolist():
        share, variance = share * math.sqrt(1 - beta), variance * (1 - beta) + beta
        found.append((share, variance))
    shares, variances = torch.tensor(found, dtype=torch.float64).T
    sigma = beta_table(BETAS[name]())
    ones, zeros = torch.ones(1000, 1, dtype=torch.float64), torch.zeros(1000, 1, dtype=torch.float64)
    scale = alpha_bar(sigma).sqrt()
    assert_close(scale * add_noise(ones, sigma, zeros)[:, 0], shares, rtol=1e-9, atol=0)
    assert_close((scale * add_noise(zeros, sigma, ones)[:, 0]).square(), variances, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_power_grid_is_even_in_sigma_to_the_one_over_rho(rho):
    sigmas = power_grid(18, sigma_min=0.002, sigma_max=80, rho=rho)
    assert (sigmas.dtype, len(sigmas), sigmas[-1].item()) == (torch.float64, 19, 0.0)
    assert_close(sigmas[[0, 17]], torch.tensor([80, 0.002], dtype=torch.float64), rtol=1e-10, atol=0)
    steps = sigmas[:-1].pow(1 / rho).diff()
    assert_close(steps, steps.mean().expand(17), rtol=1e-10, atol=0)


def test_power_grid_of_one_step_goes_straight_to_zero():
    assert power_grid(1, sigma_min=0.1, sigma_max=5).tolist() == pytest.approx([5.0, 0.0])


@pytest.mark.parametrize(
    "wrong",
    [{"num_steps": 0}, {"sigma_min": 0.0}, {"sigma_min": 80.0}, {"sigma_min": math.nan}, {"rho": 0.0}],
)
def test_power_grid_refuses(wrong):
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        power_grid(**{"num_steps": 4, "sigma_min": 0.1, "sigma_max": 80.0, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"rho": 0.1}, {"sigma_min": 79.99999999999999}, {"num_steps": 3000, "sigma_min": 79.99}]
)
def test_power_grid_refuses_levels_that_are_one(wrong):
    with pytest.raises(ValueError, match="different noise levels; choose"):
        power_grid(**{"num_steps": 16, "sigma_min": 0.005, "sigma_max": 80.0, **wrong})


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 2.0)])
def test_quartiles_of_training_sigma(mean, std, generator):
    """The quartiles of N(mean, std^2) are mean -+ 0.6744898 std; of 100,000 draws they are known to 0.3 % std."""
    sigma = lognormal_sigma(torch.rand(100_000, generator=generator), mean=mean, std=std)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    expected = torch.tensor([mean - 0.6744898 * std, mean, mean + 0.6744898 * std], dtype=torch.float64)
    assert_close(sigma.log().quantile(quartiles), expected, rtol=0, atol=0.015 * std)
    exact = lognormal_sigma(quartiles, mean=mean, std=std)
    assert_close(exact.log(), expected, rtol=0, atol=1e-6)


def test_training_sigma_is_finite_at_the_ends():
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    low, high = lognormal_sigma(ends, mean=0.0, std=1.0).log().tolist()
    assert low == pytest.approx(-high, rel=1e-6)
    assert high == pytest.approx(8.21, abs=0.01)


def test_shift_for_resolution_keeps_what_the_small_picture_shows(generator):
    """Averaging k x k pixels divides the noise by k: the shifted level, averaged, is the level trained at."""
    sigma = math.exp(shift_for_resolution(math.log(0.5), trained_at=16, resolution=64))
    noise = sigma * torch.randn(1, 1, 512, 512, generator=generator, dtype=torch.float64)
    assert torch.nn.functional.avg_pool2d(noise, 4).std().item() == pytest.approx(0.5, rel=0.02)


class TestAddNoise:
    def test_formula_and_zero(self, generator):
        x0, eps = torch.randn(2, 3, 2, 4, 4, generator=generator)
        sigma = torch.tensor([0.0, 1.0, 2.5])
        x = add_noise(x0, sigma, eps)
        assert torch.equal(x[0], x0[0])
        assert_close(x[2], x0[2] + 2.5 * eps[2])
        assert torch.equal(augment(x0, sigma, eps), x)

    @pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (3, 1, 1, 1)])
    def test_expand_to_refuses_all_but_one_number_an_image(self, shape):
        """(4,) for three 4 x 4 pictures would broadcast over columns without an error."""
        with pytest.raises(ValueError, match="one number per image"):
            expand_to(torch.ones(shape), torch.zeros(3, 2, 4, 4))

    def test_refuses_wrong_shapes(self):
        x0 = torch.zeros(3, 2, 4, 4)
        with pytest.raises(ValueError, match="shapes must be equal"):
            add_noise(x0, torch.ones(3), torch.zeros(3, 2, 4, 1))
        with pytest.raises(ValueError, match="one number per image"):
            add_noise(x0, torch.ones(4), torch.zeros_like(x0))

    def test_float64_stays_float64(self):
        x0 = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
        assert add_noise(x0, torch.ones(2), x0).dtype == torch.float64


def test_score_is_the_gradient_of_the_log_density(generator):
    world = GaussianData(mean=torch.full((1, 2, 2), 0.3).double(), std=torch.full((1, 2, 2), 0.7).double())
    x = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    var = (world.std.square() + expand_to(sigma, x).square()).detach()
    (gradient,) = torch.autograd.grad((-(x - world.mean).square() / (2 * var)).sum(), x)
    assert_close(score(world.denoise(x, sigma), x, sigma), gradient, rtol=1e-9, atol=1e-12)


def test_draws_of_an_image_do_not_depend_on_its_neighbours():
    index = torch.tensor([5, 2, 9])
    assert torch.equal(
        normals(generators(0, index, "eps"), (2, 3))[1], normals(generators(0, index[1:2], "eps"), (2, 3))[0]
    )
    together = uniforms(generators(0, index, "draws"), 4)
    assert torch.equal(together[2], uniforms(generators(0, index[2:], "draws"), 4)[0])
    for other in (generators(1, index, "draws"), generators(0, index, "eps"), generators(2**32, index, "draws")):
        assert not torch.equal(uniforms(other, 4), together)
