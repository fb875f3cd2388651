"""Views of sigma: forward SDE, reverse SDE and probability-flow ODE of each process have one and the same marginals, in float64."""

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion.corrupt import expand_to
from stages.diffusion.processes import PROCESSES
from tests.worlds import GaussianData

SIGMAS = torch.logspace(-2, 2, 41, dtype=torch.float64)
every_process = pytest.mark.parametrize("name", list(PROCESSES))


def world() -> GaussianData:
    std = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=torch.float64).reshape(1, 2, 2)
    return GaussianData(mean=torch.full((1, 2, 2), 0.3, dtype=torch.float64), std=std)


def marginal(name: str, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of X, (b, 1, 2, 2)."""
    scale, level = (
        expand_to(each, torch.zeros(len(sigma), 1, 2, 2).double()) for each in (PROCESSES[name].scale(sigma), sigma)
    )
    return scale * world().mean, scale.square() * (world().std.square() + level.square())


def growth(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of mean and variance by sigma, of the closed form."""
    sigma = SIGMAS.clone().requires_grad_()
    mean, var = marginal(name, sigma)
    rows = []
    for value in (mean, var):
        parts = (value + 0 * sigma.reshape(-1, 1, 1, 1)).flatten(1).sum(0)
        columns = [torch.autograd.grad(part, sigma, retain_graph=True)[0] for part in parts]
        rows.append(torch.stack(columns, 1).reshape(-1, 1, 2, 2))
    return rows[0], rows[1]


def affine(drift, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A drift at the mean, and its slope in X, which on Gaussian data is the same everywhere."""
    mean, _ = marginal(name, SIGMAS)
    at_mean = drift(mean)
    return at_mean, drift(mean + 1) - at_mean


def answered(name: str, X: torch.Tensor) -> torch.Tensor:
    scale = expand_to(PROCESSES[name].scale(SIGMAS), X)
    return world().denoise(X / scale, SIGMAS)


@every_process
def test_the_forward_sde_has_the_marginals_of_the_closed_form(name):
    process, (mean_growth, var_growth) = PROCESSES[name], growth(name)
    at_mean, slope = affine(lambda X: process.forward(X, SIGMAS), name)
    noise = expand_to(process.diffusion(SIGMAS).square(), at_mean)
    _, var = marginal(name, SIGMAS)
    assert_close(at_mean, mean_growth, rtol=1e-10, atol=1e-12)
    assert_close(2 * slope * var + noise, var_growth, rtol=1e-9, atol=1e-11)


@every_process
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 3.0])
def test_the_ode_and_the_reverse_sdes_have_the_same(name, lam):
    """Sigma falls, so the noise that comes in counts against the growth with sigma."""
    process, (mean_growth, var_growth) = PROCESSES[name], growth(name)

    def drift(X):
        x0_hat = answered(name, X)
        return process.flow(X, SIGMAS, x0_hat) if lam == 0 else process.reverse(X, SIGMAS, x0_hat, lam)

    at_mean, slope = affine(drift, name)
    noise = lam * expand_to(process.diffusion(SIGMAS).square(), at_mean)
    _, var = marginal(name, SIGMAS)
    assert_close(at_mean, mean_growth, rtol=1e-8, atol=1e-10)
    assert_close(2 * slope * var - noise, var_growth, rtol=1e-7, atol=1e-9)


def test_song_s_own_words_for_vp_and_sub_vp():
    """With B = the integral of beta: VP has scale exp(-B/2) and std sqrt(1 - exp(-B)); sub-VP the same scale, and std 1 - exp(-B),
    drift -beta/2 X and g^2 = beta (1 - exp(-2 B)) (Song et al. 2021, eq. 29 and appendix B)."""
    B = torch.linspace(0.1, 8, 30, dtype=torch.float64, requires_grad=True)
    scale = (-B / 2).exp()
    for name, std in (("vp", (1 - (-B).exp()).sqrt()), ("sub_vp", 1 - (-B).exp())):
        sigma = std / scale
        process = PROCESSES[name]
        assert_close(process.scale(sigma), scale)
        (speed,) = torch.autograd.grad(sigma.sum(), B, retain_graph=True)  # dsigma / dB, with beta = 1
        assert_close(process.rate(sigma) * speed, torch.full_like(B, -0.5), rtol=1e-9, atol=0)
        g_squared = torch.ones_like(B) if name == "vp" else 1 - (-2 * B).exp()
        assert_close(process.diffusion(sigma).square() * speed, g_squared, rtol=1e-9, atol=0)


@every_process
def test_a_state_has_the_scale_of_its_process(name, generator):
    x = torch.randn(len(SIGMAS), 1, 2, 2, generator=generator, dtype=torch.float64)
    X = PROCESSES[name].state(x, SIGMAS)
    assert_close(X / x, expand_to(PROCESSES[name].scale(SIGMAS), x).expand_as(x))
