"""Samplers and grids against k-diffusion, whose numbers are stored: the same levels, start, ideal denoiser and noise."""

import json

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import stages.diffusion.multistep as multistep
from stages.diffusion.noise import loguniform_grid, power_grid
from stages.diffusion.samplers import SAMPLERS, drive
from tests.stages.diffusion.k_diffusion_oracle import (
    CASES,
    CHURN,
    HIGH,
    LOW,
    NUM_STEPS,
    STORED,
    denoise,
    power_levels,
    start,
    wave,
)  # fmt: skip

THEIRS = json.loads(STORED.read_text())
OURS = {
    "euler": ("euler", {}),
    "euler churn": ("euler", CHURN),
    "heun": ("heun", {}),
    "heun churn": ("heun", CHURN),
    "ancestral 1": ("sde", {"lam": 1.0}),
    "ancestral 0.5": ("ddim", {"eta": 0.5}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_sde 1": ("dpmpp_2m_sde", {"lam": 1.0}),
    "dpmpp_2m_sde 0.5": ("dpmpp_2m_sde", {"lam": 0.5}),
    "dpmpp_3m_sde 1": ("dpmpp_3m_sde", {"lam": 1.0}),
    "dpmpp_3m_sde 0": ("dpmpp_3m", {}),
}


def end(case: str) -> Tensor:
    name, options = OURS[case]
    kind = SAMPLERS[name]

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return wave(int(purpose.split()[-1]))

    return drive(kind(start(), power_levels(), noise, {**kind.defaults, **options}), denoise).flatten()


def of_k_diffusion(case: str) -> Tensor:
    return torch.tensor(THEIRS["ends"][case], dtype=torch.float64)


@pytest.mark.parametrize("case", [case for case in CASES if "3m" not in case])
def test_a_sampler_ends_where_theirs_does(case):
    assert_close(end(case), of_k_diffusion(case), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if "3m" in case])
def test_the_third_order_solver_but_for_the_weight_of_the_second_derivative(case, monkeypatch):
    """Theirs has half of the weight, like diffusers', and order 2 (test_diffusers.py)."""
    assert (end(case) - of_k_diffusion(case)).abs().max() > 1e-4
    differences = multistep.differences

    def halved(known, advance):
        first, second = differences(known, advance)
        return first, second / 2

    monkeypatch.setattr(multistep, "differences", halved)
    assert_close(end(case), of_k_diffusion(case), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "grid"), [("power", power_grid), ("loguniform", loguniform_grid)])
def test_grids(name, grid):
    """Theirs are float32."""
    expected = torch.tensor(THEIRS["grids"][name], dtype=torch.float64)
    assert_close(grid(NUM_STEPS, sigma_min=LOW, sigma_max=HIGH), expected, rtol=1e-5, atol=0)
