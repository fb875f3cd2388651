"""The closed forms that other tests lean on, each checked in another way: by derivatives, by averages, by brute force."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from tests.worlds import FiniteData, FiniteSuperRes, GaussianData, finite_cascade


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def gaussian(generator):
    return GaussianData(
        mean=torch.randn(2, 3, 3, generator=generator).double(),
        std=torch.rand(2, 3, 3, generator=generator).double() + 0.1,
    )


@pytest.fixture
def finite(generator):
    images = 2 * torch.rand(4, 1, 4, 4, generator=generator).double() - 1
    return FiniteData(images=images, labels=torch.tensor([0, 0, 1, 1]), low_size=2)


def test_gaussian_path_solves_the_probability_flow_ode(gaussian, generator):
    """dx/dsigma = (x - x0_hat) / sigma, the derivative by central differences."""
    x = 3 * torch.randn(5, 2, 3, 3, generator=generator).double()
    for sigma in (0.05, 1.0, 3.0):
        at = gaussian.path(x, 3.0, sigma)
        step = 1e-4 * sigma
        slope = (gaussian.path(x, 3.0, sigma + step) - gaussian.path(x, 3.0, sigma - step)) / (2 * step)
        expected = (at - gaussian.denoise(at, torch.full((5,), sigma).double())) / sigma
        assert_close(slope, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("low_sigma", [None, 0.4])
def test_gaussian_risk_is_the_error_that_is_measured(low_sigma, gaussian, generator):
    num, sigma = 4000, torch.full((4000,), 0.5)
    x0 = gaussian.draw(num, generator)
    eps, other = torch.randn(2, *x0.shape, generator=generator, dtype=torch.float64)
    low = None if low_sigma is None else torch.full((num,), low_sigma)
    given = () if low_sigma is None else (x0 + low_sigma * other, low)
    error = (gaussian.denoise(x0 + 0.5 * eps, sigma, *given) - x0).square().mean()
    assert error.item() == pytest.approx(gaussian.risk(sigma, low)[0].item(), rel=0.03)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_finite_denoiser_is_the_score_of_the_mixture(finite, sigma, generator):
    """x0_hat = x + sigma^2 grad log p(x), with p a mixture of normals around the pictures (Tweedie)."""
    x = torch.randn(3, 1, 4, 4, generator=generator).double().requires_grad_()
    square = (x[:, None] - finite.images).square().flatten(2).sum(2)
    log_density = (-square / (2 * sigma**2)).logsumexp(1).sum()
    (gradient,) = torch.autograd.grad(log_density, x)
    found = finite.denoise(x.detach(), torch.full((3,), sigma))
    assert_close(found, x.detach() + sigma**2 * gradient, rtol=1e-9, atol=1e-9)


def test_finite_posterior_by_brute_force(finite, generator):
    """Products of normal densities, with a class and a condition."""
    x, sigma = torch.randn(2, 1, 4, 4, generator=generator).double(), torch.tensor([0.8, 2.0])
    low_res, aug_sigma = torch.randn(2, 1, 4, 4, generator=generator).double(), torch.tensor([0.9, 3.0])
    cond = Cond.of(torch.tensor([True, False]), label=torch.tensor([1, 1]))
    found = finite.posterior(x, sigma, cond, low_res, aug_sigma)
    for row in range(2):
        weights = []
        for k in range(4):
            seen = torch.distributions.Normal(finite.images[k], sigma[row].double()).log_prob(x[row]).sum()
            low = torch.distributions.Normal(finite.low_res[k], aug_sigma[row].double()).log_prob(low_res[row]).sum()
            allowed = row == 1 or finite.labels[k] == 1
            weights.append((seen + low).exp().item() * allowed)
        expected = torch.tensor(weights).double() / sum(weights)
        assert_close(found[row], expected, rtol=1e-6, atol=1e-12)


def test_a_condition_without_noise_decides_alone(finite):
    x = finite.images[[0]].repeat(4, 1, 1, 1)
    found = finite.denoise(x, torch.full((4,), 0.1), None, finite.low_res, torch.zeros(4))
    assert_close(found, finite.images, rtol=0, atol=1e-12)


def test_finite_cascade_chains(generator):
    images = torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1
    stages = finite_cascade(images, (4, 8, 16))
    assert list(stages) == ["base_4", "sr_8", "sr_16"]
    for below, above in zip(stages.values(), list(stages.values())[1:], strict=False):
        assert isinstance(above, FiniteSuperRes)
        assert above.config.low_res == below.config.resolution
        assert_close(above.enlarge(below.world.images), above.world.low_res, rtol=0, atol=1e-12)
    assert_close(stages["sr_16"].world.images, images.double(), rtol=0, atol=0)
