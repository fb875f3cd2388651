"""Noise levels. The coordinate is sigma, the noise std in units of x0: x = x0 + sigma * eps (Karras et al. 2022, "EDM").

`logsnr`, `snr` and `alpha_bar` are views of it, and the variance-preserving state of DDPM is `x * sqrt(alpha_bar)`. Grids and
closed forms are float64 on the CPU: they are cheap, and a rounding error here moves every picture.
"""

import math

import torch
from torch import Tensor


def logsnr(sigma: Tensor) -> Tensor:
    """log(1 / sigma^2), the log signal-to-noise ratio at unit signal variance."""
    return -2 * sigma.log()


def alpha_bar(sigma: Tensor) -> Tensor:
    """DDPM's cumulative product of (1 - beta): 1 / (1 + sigma^2) = sigmoid(logsnr)."""
    return 1 / (1 + sigma.square())


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Inverse of `alpha_bar`: sqrt((1 - alpha_bar) / alpha_bar)."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def power_grid(num_steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Sampling levels (num_steps + 1,) float64 from sigma_max down to sigma_min, then 0 (EDM, eq. 5).

    Evenly spaced in sigma^(1/rho); one step is [sigma_max, 0]. Raises ValueError if two levels coincide in float32, the
    precision in which networks get them.
    """
    if num_steps < 1 or not 0 < sigma_min < sigma_max or rho <= 0:
        raise ValueError(
            f"power_grid: num_steps={num_steps}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}; "
            "num_steps >= 1, 0 < sigma_min < sigma_max and rho > 0 are needed"
        )
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    if not (sigmas.float().diff() < 0).all():
        raise ValueError(
            f"{num_steps} steps from sigma_max={sigma_max} to sigma_min={sigma_min} with rho={rho} are not {num_steps} "
            "different noise levels; choose a wider range, fewer steps or rho 7"
        )
    return sigmas


def lognormal_sigma(u: Tensor, *, mean: float, std: float) -> Tensor:
    """Training levels with log(sigma) ~ N(mean, std^2) from uniform u (b,) in [0, 1) (EDM, Table 1: -1.2, 1.2).

    Uses the inverse distribution function, so one uniform number determines one level. u = 0 is raised to 2^-53.
    """
    z = torch.special.ndtri(u.double().clamp(min=2**-53))
    return (mean + std * z).exp()


def shift_for_resolution(sigma_mean: float, *, trained_at: int, resolution: int) -> float:
    """Mean log noise level for another resolution: + log(resolution / trained_at) (Hoogeboom et al. 2023, eq. 4).

    Averaging k x k pixels divides white noise by k and leaves a smooth picture alone, so a picture k times as large needs k times
    the noise to hide the same information.
    """
    return sigma_mean + math.log(resolution / trained_at)
