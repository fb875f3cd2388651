"""Densities by the probability-flow ODE against closed forms, in float64."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stages.diffusion.likelihood import QUERIES, log_density, rising_levels
from stages.diffusion.samplers import Answer
from tests.worlds import GaussianData


@dataclass(frozen=True)
class Correlated:
    """x0 ~ N(mean, cov), elements correlated: the Jacobian of its denoiser is no diagonal, so probes have a variance."""

    mean: Tensor
    cov: Tensor

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = self.cov @ torch.linalg.inv(self.cov + sigma[0].item() ** 2 * torch.eye(len(self.cov)).double())
        return (self.mean + (x.flatten(1) - self.mean) @ gain).reshape(x.shape)

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        cov = self.cov + sigma**2 * torch.eye(len(self.cov)).double()
        return torch.distributions.MultivariateNormal(self.mean, cov).log_prob(x.flatten(1))


def signs(num: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(num, *like.shape, generator=generator, dtype=torch.float64).sign()


def density(denoise, x: Tensor, *, levels=64, probes: Tensor, method="rk4", low=0.005, high=80.0) -> Tensor:
    sigmas = rising_levels(levels, sigma_min=low, sigma_max=high)
    steps, num = log_density(x, sigmas, mean=torch.zeros_like(x), probes=probes, method=method), 0
    query = next(steps)
    try:
        while True:
            assert query.rows is not None
            assert torch.equal(query.rows, torch.arange(len(x)).repeat(1 + 2 * len(probes)))
            num += 1
            query = steps.send(Answer(denoise(query.x, query.sigma)))
    except StopIteration as stop:
        assert num == (levels - 1) * QUERIES[method]
        return stop.value


@pytest.fixture
def gaussian(generator):
    mean = 0.5 * torch.randn(2, 3, 3, generator=generator).double()
    return GaussianData(mean=mean, std=torch.rand(2, 3, 3, generator=generator).double() + 0.05)


@pytest.mark.parametrize(("method", "levels"), [("heun", 256), ("rk4", 32), ("rk4", 64)])
def test_gaussian_data_to_a_hundredth_of_a_bit(gaussian, method, levels, generator):
    x = gaussian.draw(6, generator)
    found = density(gaussian.denoise, x, levels=levels, probes=signs(1, x, generator), method=method)[:, 0]
    std = (gaussian.std.square() + 0.005**2).sqrt()
    expected = torch.distributions.Normal(gaussian.mean, std).log_prob(x).flatten(1).sum(1)
    bits = (found - expected) / math.log(2) / x[0].numel()
    assert bits.abs().max() < 0.01


def test_correlated_data_by_many_probes(generator):
    factor = torch.randn(8, 8, generator=generator).double() / 4
    world = Correlated(mean=torch.linspace(-0.5, 0.5, 8).double(), cov=factor @ factor.T + 0.01 * torch.eye(8).double())
    x = torch.distributions.MultivariateNormal(world.mean, world.cov).sample((3,)).reshape(3, 2, 2, 2)
    estimates = density(world.denoise, x, probes=signs(200, x, generator)) / math.log(2) / 8
    expected = world.log_prob(x, 0.005) / math.log(2) / 8
    spread = estimates.std(1)
    assert (spread > 0.05).all()  # the trace is no sum over a diagonal here
    assert ((estimates.mean(1) - expected).abs() < 4 * spread / 200**0.5 + 0.01).all()


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("rk4", 4)])
def test_order_of_the_error(gaussian, method, order, generator):
    """Between moderate levels, where the error is that of the steps."""
    x = gaussian.draw(4, generator)
    probes = signs(1, x, generator)
    exact = density(gaussian.denoise, x, levels=600, probes=probes, method="rk4", low=0.3, high=3.0)
    errors = [
        (density(gaussian.denoise, x, levels=n, probes=probes, method=method, low=0.3, high=3.0) - exact).abs().max()
        for n in (33, 65)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_too_few_levels():
    with pytest.raises(ValueError, match=r"31 levels: a likelihood needs at least 32"):
        rising_levels(31, sigma_min=0.01, sigma_max=80)
