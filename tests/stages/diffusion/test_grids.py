"""What holds for every grid that settings may name."""

import subprocess
import sys

import pytest
import torch

from stages.config import SampleConfig
from stages.diffusion.grids import GRIDS, GridKind
from stages.diffusion.noise import flow_grid, power_grid


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("num_steps", [1, 2, 16, 500])
def test_levels_go_down_to_zero(name, num_steps):
    sigmas = GRIDS[name].levels(SampleConfig(grid=name, num_steps=num_steps))
    assert (sigmas.shape, sigmas.dtype, sigmas.device.type) == ((num_steps + 1,), torch.float64, "cpu")
    assert sigmas[-1] == 0
    assert (sigmas.float().diff() < 0).all()


@pytest.mark.parametrize("name", GRIDS)
def test_what_a_grid_reads_is_a_setting(name):
    assert set(GRIDS[name].reads) <= SampleConfig.model_fields.keys()


def test_settings_sample_the_levels_of_their_grid(monkeypatch):
    settings = SampleConfig(num_steps=5, sigma_max=20.0, rho=3.0)
    assert torch.equal(settings.sigmas, power_grid(5, sigma_min=0.005, sigma_max=20.0, rho=3.0))
    monkeypatch.setitem(GRIDS, "even", GridKind(function=even, keys=("sigma_max",)))
    even_settings = SampleConfig(num_steps=2, sigma_max=20.0).model_copy(update={"grid": "even"})
    assert even_settings.sigmas.tolist() == [20.0, 10.0, 0.0]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_grid_is_even_in_time(shift):
    """Esser et al. 2024, eq. 23: a shifted time is shift t / (1 + (shift - 1) t), t even."""
    sigmas = flow_grid(5, sigma_min=0.1, sigma_max=8.0, shift=shift)
    assert (sigmas[0].item(), sigmas[-2].item(), sigmas[-1].item()) == (pytest.approx(8.0), pytest.approx(0.1), 0.0)
    shifted = sigmas[:-1] / (1 + sigmas[:-1])
    time = shifted / (shift - (shift - 1) * shifted)
    torch.testing.assert_close(time.diff(), (time[-1] - time[0]).expand(4) / 4, rtol=1e-12, atol=0)


def even(num_steps: int, *, sigma_max: float) -> torch.Tensor:
    return torch.linspace(sigma_max, 0, num_steps + 1, dtype=torch.float64)


def test_names_are_known_where_torch_is_not_loaded():
    code = "import sys; from stages.diffusion.grids import GRIDS; assert GRIDS and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
