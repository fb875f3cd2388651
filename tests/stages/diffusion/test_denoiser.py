"""Preconditioning with one and two observations of x0, and the loss weight, against a Gaussian world."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.functional import pil_to_tensor

from data.batch import to_float
from data.resize import downsample, upsample
from stages.diffusion.corrupt import add_noise, expand_to
from stages.diffusion.denoiser import combine, scalings, weighted_error
from tests.worlds import GaussianData

ROOT = Path(__file__).parents[3]
SIGMA_DATA = 0.6
SIGMAS = torch.tensor([0.003, 0.05, 0.4, 1.5, 20.0, 80.0])
SHAPE = (3, 64, 64)
ROOT_NUM = (3 * 64 * 64) ** 0.5  # a variance from n draws is known to sqrt(2 / n)


def world() -> GaussianData:
    """Zero mean and std sigma_data: the world that preconditioning is derived for."""
    return GaussianData(mean=torch.zeros(SHAPE).double(), std=torch.full(SHAPE, SIGMA_DATA).double())


def observed(sigma, s, generator):
    """x0 and its two observations, float64. s (b,) or None."""
    x0 = world().draw(len(sigma), generator)
    eps, other = torch.randn(2, *x0.shape, generator=generator, dtype=torch.float64)
    return x0, add_noise(x0, sigma, eps), None if s is None else add_noise(x0, s, other)


LOW = [None, torch.full_like(SIGMAS, 0.05), torch.full_like(SIGMAS, 0.22), torch.full_like(SIGMAS, 3.0)]
low_levels = pytest.mark.parametrize("s", LOW, ids=["s=inf", "s=0.05", "s=0.22", "s=3"])


def close_to_one(values):
    assert_close(values, torch.ones_like(values), rtol=0, atol=5 * 2**0.5 / ROOT_NUM)


@low_levels
def test_inputs_and_target_have_unit_variance(s, generator):
    x0, x, low_res = observed(SIGMAS, s, generator)
    scale = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=s)
    close_to_one((x * expand_to(scale.c_in, x)).var((1, 2, 3)))
    known = combine(x, low_res, torch.zeros_like(x), scale)
    close_to_one(((x0 - known) / expand_to(scale.c_out, x)).var((1, 2, 3)))  # what F has to answer
    if low_res is not None:
        close_to_one((low_res * expand_to(scale.c_in_low, x)).var((1, 2, 3)))


@low_levels
def test_loss_of_a_network_that_answers_zero_is_one(s, generator):
    x0, x, low_res = observed(SIGMAS, s, generator)
    scale = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=s)
    close_to_one(weighted_error(combine(x, low_res, torch.zeros_like(x), scale), x0, scale.weight))


@low_levels
def test_answering_zero_is_the_optimal_estimate(s, generator):
    """With independent Gaussian errors the Wiener filter of both observations is E[x0 | x, low_res]."""
    _, x, low_res = observed(SIGMAS, s, generator)
    scale = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=s)
    found = combine(x, low_res, torch.zeros_like(x), scale)
    assert_close(found, world().denoise(x, SIGMAS, low_res, s), rtol=1e-5, atol=1e-5)  # scalars are float32


@pytest.mark.parametrize(("aug_sigma", "told"), [(0.0, 1.16), (1.0, 1.07)])
def test_the_target_s_variance_on_pictures_is_what_the_readme_says(aug_sigma, told, generator):
    """What upsampling loses depends on the picture: 1 at low noise, a little more at high."""
    files = sorted((ROOT / "data" / "emoji64").glob("*.png"))[::8]
    pictures = [pil_to_tensor(Image.open(file).convert("RGB")) for file in files]
    x0 = to_float(torch.stack(pictures))
    low_res = upsample(downsample(x0, (16, 16)), (64, 64))
    data, lost = x0.square().mean().sqrt().item(), (x0 - low_res).square().mean().sqrt().item()
    aug, eps = torch.randn(2, *x0.shape, generator=generator)
    found = []
    for sigma in (0.01, 80.0):
        levels = torch.full((len(x0),), sigma)
        error = torch.full((len(x0),), (lost**2 + aug_sigma**2) ** 0.5)
        scale = scalings(levels, sigma_data=data, low_res_sigma=error)
        rest = x0 - combine(x0 + sigma * eps, low_res + aug_sigma * aug, torch.zeros_like(x0), scale)
        found.append((rest / expand_to(scale.c_out, x0)).square().mean().item())
    assert found == pytest.approx([1.0, told], abs=0.015)
    assert f"{told}" in (ROOT / "stages" / "README.md").read_text()


@low_levels
def test_weight_times_bayes_risk_is_one(s):
    scale = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=s)
    assert_close(scale.weight.double() * world().risk(SIGMAS, s), torch.ones(len(SIGMAS)).double(), rtol=1e-5, atol=0)


def test_without_low_res_it_is_the_table_of_edm():
    """Karras et al. 2022, Table 1, last column, in its own words."""
    sigma, data = SIGMAS.double(), SIGMA_DATA
    total = sigma**2 + data**2
    table = {
        "c_skip": data**2 / total,
        "c_out": sigma * data / total.sqrt(),
        "c_in": 1 / total.sqrt(),
        "c_noise": sigma.log() / 4,
        "weight": total / (sigma * data) ** 2,
        "c_low": torch.zeros_like(sigma),
        "c_in_low": torch.zeros_like(sigma),
    }
    for s in (None, torch.full_like(SIGMAS, torch.inf)):
        scale = scalings(SIGMAS, sigma_data=data, low_res_sigma=s)
        for name, expected in table.items():
            assert_close(getattr(scale, name).double(), expected, rtol=1e-5, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_network_output_reaches_x0_hat_in_the_dtype_of_x(generator):
    """A bfloat16 answer does not round what the observations already know."""
    _, x, low_res = observed(SIGMAS, LOW[2], generator)
    scale = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=LOW[2])
    F = torch.randn(x.shape, generator=generator)
    exact, rounded = (combine(x, low_res, part, scale) for part in (F, F.bfloat16()))
    error = (exact - rounded).abs().flatten(1).amax(1)
    assert rounded.dtype == torch.float64
    assert (error <= scale.c_out.double() * F.abs().flatten(1).amax(1) * 2**-8).all()


@low_levels
def test_ideal_denoiser_attains_the_bayes_risk_and_any_other_pays_more(s, generator):
    """weight E|x0_hat + d - x0|^2 = weight (risk + d^2): the ideal error is orthogonal to whatever is known."""
    some = GaussianData(mean=torch.full(SHAPE, 0.2).double(), std=torch.linspace(0.1, 1, 64).double().expand(SHAPE))
    x0 = some.draw(len(SIGMAS), generator)
    eps, other = torch.randn(2, *x0.shape, generator=generator, dtype=torch.float64)
    x = add_noise(x0, SIGMAS, eps)
    low_res = None if s is None else add_noise(x0, s, other)
    x0_hat, risk = some.denoise(x, SIGMAS, low_res, s), some.risk(SIGMAS, s)
    weight = scalings(SIGMAS, sigma_data=SIGMA_DATA, low_res_sigma=s).weight

    ideal = weighted_error(x0_hat, x0, weight)
    assert_close(ideal.double(), weight * risk, rtol=0.1, atol=0)
    step = expand_to(0.3 * risk.sqrt(), x)
    shifted = torch.sign(x0_hat)  # a direction that depends on what is known only
    for worse in (x0_hat + step, x0_hat - step, x0_hat + step * shifted, x0_hat - step * shifted):
        assert_close(
            weighted_error(worse, x0, weight) / ideal, torch.full((6,), 1.09), rtol=0.04, atol=0, check_dtype=False
        )
