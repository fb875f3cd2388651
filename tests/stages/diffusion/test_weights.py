"""Weights of |x0_hat - x0|^2 against the losses on other targets, computed as their papers write them, in float64."""

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion import weights
from stages.diffusion.corrupt import score
from stages.diffusion.denoiser import scalings
from stages.diffusion.noise import alpha_bar


@pytest.fixture
def sigma():
    return torch.logspace(-3, 2, 40, dtype=torch.float64)


@pytest.fixture
def pair():
    """x0, its estimate and eps of as many pictures of one pixel as there are levels."""
    return torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_eps(sigma, pair):
    x0, x0_hat, eps = pair
    eps_hat = (x0 + sigma * eps - x0_hat) / sigma
    assert_close((eps_hat - eps).square(), weights.eps(sigma) * (x0_hat - x0).square(), rtol=1e-9, atol=0)


def test_denoising_score_matching_is_the_loss_on_eps(sigma, pair):
    """sigma^2 |score_hat - grad log q(x given x0)|^2 (Vincent 2011; Song and Ermon 2019, eq. 6), where that is -eps / sigma."""
    x0, x0_hat, eps = (each.reshape(-1, 1) for each in pair)
    x = x0 + sigma[:, None] * eps
    error = score(x0_hat, x, sigma) + eps / sigma[:, None]
    found = sigma**2 * error[:, 0].square()
    assert_close(found, weights.eps(sigma) * (x0_hat - x0)[:, 0].square(), rtol=1e-8, atol=0)


def test_v(sigma, pair):
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, with eps_hat from x0_hat."""
    x0, x0_hat, eps = pair
    eps_hat = (x0 + sigma * eps - x0_hat) / sigma
    a, b = alpha_bar(sigma).sqrt(), (1 - alpha_bar(sigma)).sqrt()
    error = (a * eps_hat - b * x0_hat) - (a * eps - b * x0)
    assert_close(error.square(), weights.v(sigma) * (x0_hat - x0).square(), rtol=1e-9, atol=0)


def test_flow(sigma, pair):
    """x_t = (1 - t) x0 + t eps with t = sigma / (1 + sigma); the velocity from x_t and x0_hat is (x_t - x0_hat) / t."""
    x0, x0_hat, eps = pair
    t = sigma / (1 + sigma)
    x_t = (1 - t) * x0 + t * eps
    assert_close(x_t, (1 - t) * (x0 + sigma * eps))
    error = (x_t - x0_hat) / t - (eps - x0)
    assert_close(error.square(), weights.flow(sigma) * (x0_hat - x0).square(), rtol=1e-9, atol=0)


def test_edm_is_the_preconditionings_own(sigma):
    expected = scalings(sigma, sigma_data=0.5).weight.double()
    assert_close(weights.edm(sigma, sigma_data=0.5), expected, rtol=1e-6, atol=0)


def test_those_of_the_signal_to_noise_ratio(sigma):
    """As the papers write them: on eps, min(snr, gamma) / snr; (k + snr)^-gamma; sigmoid(bias - log snr)."""
    snr = sigma**-2
    ratio = torch.minimum(snr, torch.tensor(5.0, dtype=torch.float64)) / snr
    assert_close(weights.min_snr(sigma, gamma=5.0), ratio * weights.eps(sigma))
    assert_close(weights.p2(sigma, gamma=0.5, k=2.0), (2 + snr) ** -0.5 * weights.eps(sigma))
    assert_close(weights.sigmoid(sigma, bias=-1.0), (-1 - snr.log()).sigmoid() * weights.eps(sigma))
    assert_close(weights.soft_min_snr(sigma, gamma=4.0), snr * 4 / (snr + 4))
    assert_close(weights.p2(sigma, gamma=1.0, k=1.0), (1 - alpha_bar(sigma)) * weights.eps(sigma))


def test_x0(sigma):
    assert torch.equal(weights.x0(sigma), torch.ones_like(sigma))
