"""Control by a given picture, in closed form: what is known stays exact in every sampler, what is independent of it is untouched,
the bias of replacement where it is not, and the way up the ODE and down again."""

import math

import pytest
import torch
from torch.testing import assert_close

from stages.diffusion.control import (
    inverted,
    num_inverted,
    num_resampled,
    pinned,
    resampled,
    start_level,
)
from stages.diffusion.samplers import SAMPLERS, drive
from tests.worlds import Counted, GaussianData

SIDE = 4


def levels(num, top=20.0, bottom=0.01):
    return torch.cat([torch.logspace(math.log10(top), math.log10(bottom), num, dtype=torch.float64), torch.zeros(1)])


@pytest.fixture
def world(generator):
    return GaussianData(
        mean=torch.rand(3, SIDE, SIDE, generator=generator, dtype=torch.float64) - 0.5,
        std=0.3 + torch.rand(3, SIDE, SIDE, generator=generator, dtype=torch.float64) / 2,
    )


def noises(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return lambda purpose, shape: torch.randn(shape, generator=drawn, dtype=torch.float64)


def test_a_strength_is_an_angle():
    assert start_level(1.0, 0.5, 80.0) == 80.0
    assert start_level(0.5, 0.5, 80.0) == pytest.approx(0.5)
    assert start_level(0.999, 0.5, 3.0) == 3.0
    sigmas = [start_level(strength, 0.5, 80.0) for strength in (0.1, 0.3, 0.6, 0.9)]
    assert sigmas == sorted(sigmas)
    for strength, sigma in zip((0.1, 0.3, 0.6, 0.9), sigmas, strict=True):
        assert sigma / math.hypot(sigma, 0.5) == pytest.approx(math.sin(strength * math.pi / 2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_pixels_are_exact_and_others_are_untouched(world, generator, name):
    """Pixels are independent here, so what is painted must be, bit for bit, what it would be without the known ones. Where all
    pixels of a picture choose its steps together, these are near, and what is known is exact when `Control.finish` has said so."""
    kind, sigmas = SAMPLERS[name], levels(8)
    known = torch.rand(2, 1, SIDE, SIDE, generator=generator) < 0.5
    picture = world.draw(2, generator)
    start = 20.0 * torch.randn(picture.shape, generator=generator, dtype=torch.float64)
    options = {key: option.default for key, option in kind.options.items()}
    seen = []

    def keeping(x, sigma):
        seen.append((x, sigma[0].item()))
        return pinned(world.denoise(x, sigma), known, picture)

    free = drive(kind(start, sigmas, noises(), options), world.denoise)
    found = drive(kind(pinned(start, known, start + picture), sigmas, noises(), options), keeping)
    where = known.expand_as(found)
    assert_close(found[~where], free[~where], rtol=0, atol=1e-3 if kind.adapts else 0)
    if kind.adapts:
        return
    assert_close(found[where], picture[where], rtol=0, atol=1e-9)
    if not kind.draws:
        for x, sigma in seen:
            assert_close(x[where], (picture + sigma / 20.0 * start)[where], rtol=0, atol=1e-9)


def test_resampling_visits_each_interval_so_often(world, generator):
    sigmas, counted = levels(5), Counted(world.denoise)
    x = 20.0 * torch.randn(1, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    drive(resampled(x, sigmas, noises(), 3), counted)
    assert counted.sigmas == [sigma for sigma in sigmas[:4].tolist() for _ in range(3)] + [sigmas[4].item()]
    assert len(counted.sigmas) == num_resampled(5, 3)
    euler = SAMPLERS["euler"](x, sigmas, noises(), SAMPLERS["euler"].defaults)
    assert torch.equal(drive(resampled(x, sigmas, noises(), 1), world.denoise), drive(euler, world.denoise))


def test_resampling_keeps_the_marginals(world, generator):
    """One draw of noise more at a level leaves the law at that level: mean and std of 4,000 pictures, at 5 of their own errors.
    Steps of first order lose some of the std: 4 % at 40 levels, 1 % at 160."""
    num, sigmas = 4000, levels(160)
    x = world.mean + (world.std.square() + 400).sqrt() * torch.randn(
        num, 3, SIDE, SIDE, generator=generator, dtype=torch.float64
    )
    found = drive(resampled(x, sigmas, noises(3), 2), world.denoise)
    assert ((found.mean(0) - world.mean).abs() < 5 * world.std / num**0.5).all()
    assert ((found.std(0) / world.std - 1).abs() < 0.06).all()


def test_the_bias_of_replacement_and_what_resampling_does_about_it():
    """Two pixels of correlation 0.9, of which one is known, P = 1: exact is N(0.9, 0.19). Replacement looks at P + sigma n, not at
    P, and what was decided at high levels stays. Measured, steps made 1, 4, 16 times: means 0.43, 0.76, 0.87, variances 0.50, 0.25,
    0.19."""
    rho, num, sigmas = 0.9, 20_000, levels(60)
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    known = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    picture = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)

    def keeping(x, sigma):
        gain = covariance @ torch.linalg.inv(covariance + sigma[0] ** 2 * torch.eye(2, dtype=torch.float64))
        return pinned(x @ gain, known, picture)

    means, variances = [], []
    for times in (1, 4, 16):
        noise = noises(7)
        x = 20.0 * noise("start", (num, 1, 1, 2)) + pinned(torch.zeros_like(picture), known, picture)
        found = drive(resampled(x, sigmas, noise, times), keeping)
        assert torch.equal(found[..., 0], torch.ones_like(found[..., 0]))
        means.append(found[..., 1].mean().item())
        variances.append(found[..., 1].var().item())
    assert means == pytest.approx([0.43, 0.76, 0.87], abs=0.03)
    assert variances == pytest.approx([0.50, 0.25, 0.19], abs=0.03)


@pytest.mark.parametrize("num", [40, 80])
def test_inversion_goes_up_the_exact_path(world, generator, num):
    x0, sigmas = world.draw(2, generator), levels(num)
    counted = Counted(world.denoise)
    found = drive(inverted(x0, sigmas), counted)
    exact = world.path(x0, sigmas[-2].item(), sigmas[0].item())
    assert_close(found, exact, rtol=3 * (math.log(2000) / num) ** 2, atol=0)
    assert len(counted.sigmas) == num_inverted(num)


def test_up_and_down_again_is_the_picture(world, generator):
    """Second order: half the step, a quarter of the error; what is left is the last step, from 0.01 to 0."""
    x0, heun = world.draw(2, generator), SAMPLERS["heun"]
    errors = []
    for num in (20, 40, 80):
        sigmas = levels(num, bottom=1e-4)
        x = drive(inverted(x0, sigmas), world.denoise)
        errors.append((drive(heun(x, sigmas, noises(), heun.defaults), world.denoise) - x0).abs().max().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 5e-3
