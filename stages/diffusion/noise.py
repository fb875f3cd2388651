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
    return to_zero(sigmas, f"from sigma_max={sigma_max} to sigma_min={sigma_min} with rho={rho}", " or rho 7")


def to_zero(sigmas: Tensor, what: str, fix: str = "") -> Tensor:
    """Append 0 to levels. Raises ValueError if two levels coincide in float32."""
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    if not (sigmas.float().diff() < 0).all():
        num = len(sigmas) - 1
        raise ValueError(
            f"{num} steps {what} are not {num} different noise levels; choose a wider range, fewer steps{fix}"
        )
    return sigmas


def loguniform_grid(num_steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """Sampling levels (num_steps + 1,) float64, evenly spaced in log(sigma) from sigma_max to sigma_min, then 0."""
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    sigmas = (math.log(sigma_max) + ramp * math.log(sigma_min / sigma_max)).exp()
    return to_zero(sigmas, f"even in log(sigma) from sigma_max={sigma_max} to sigma_min={sigma_min}")


def flow_grid(num_steps: int, *, sigma_min: float, sigma_max: float, shift: float = 1.0) -> Tensor:
    """Sampling levels (num_steps + 1,) float64, evenly spaced in time t = sigma / (1 + sigma) from sigma_max to sigma_min, then 0.

    Flow matching's x_t = (1 - t) x0 + t eps, divided by 1 - t, is x0 + sigma eps. shift: t -> shift t / (1 + (shift - 1) t) (Esser
    et al. 2024, eq. 23), which multiplies sigma by shift: the levels over shift are even in time.
    """
    high, low = (sigma / (shift + sigma) for sigma in (sigma_max, sigma_min))
    time = torch.linspace(high, low, num_steps, dtype=torch.float64)
    sigmas = shift * time / (1 - time)
    return to_zero(sigmas, f"even in time from sigma_max={sigma_max} to sigma_min={sigma_min} with shift={shift}")


def linear_betas(num: int = 1000) -> Tensor:
    """DDPM's betas (num,), from 0.0001 to 0.02 (Ho et al. 2020, section 4)."""
    return torch.linspace(1e-4, 0.02, num, dtype=torch.float64)


def cosine_betas(num: int = 1000) -> Tensor:
    """Betas (num,) for alpha_bar = cos^2((t + 0.008) / 1.008 pi / 2), t in [0, 1], at most 0.999 (Nichol and Dhariwal 2021)."""
    time = torch.linspace(0, 1, num + 1, dtype=torch.float64)
    alpha_bars = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bars[1:] / alpha_bars[:-1]).clamp(max=0.999)


def sigmoid_betas(num: int = 1000) -> Tensor:
    """Betas (num,) from 0.0001 to 0.02 along a sigmoid over [-6, 6] (Xu et al. 2022, GeoDiff)."""
    return torch.linspace(-6, 6, num, dtype=torch.float64).sigmoid() * (0.02 - 1e-4) + 1e-4


BETAS = {"linear": linear_betas, "cosine": cosine_betas, "sigmoid": sigmoid_betas}
"""Beta schedules of 1,000 steps by their name as grids."""


def beta_table(betas: Tensor) -> Tensor:
    """The levels sqrt(1 / alpha_bar - 1) of a beta schedule, ascending; alpha_bar is the product of 1 - beta up to each."""
    return sigma_from_alpha_bar((1 - betas).cumprod(0))


def zero_terminal_snr(table: Tensor) -> Tensor:
    """Rescale ascending levels so that the last is infinite and the first stays (Lin et al. 2024, algorithm 1).

    sqrt(alpha_bar) is shifted to end in 0, then scaled to begin where it did.
    """
    root = alpha_bar(table).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return sigma_from_alpha_bar(root.square())


def within(table: Tensor, *, sigma_min: float, sigma_max: float) -> Tensor:
    """The levels of an ascending table from sigma_min on; those above sigma_max become one at sigma_max. Raises ValueError if
    none are left."""
    below = table[(table >= sigma_min) & (table <= sigma_max)]
    if len(below) and table[-1] > sigma_max:
        below = torch.cat([below, below.new_tensor([sigma_max])])
    if not len(below):
        raise ValueError(
            f"sigma_min {sigma_min} to sigma_max {sigma_max} leaves out all levels of this schedule, which goes from "
            f"{table[0]:.4g} to {table[-1]:.4g}"
        )
    return below


def spaced(table: Tensor, num_steps: int, spacing: str) -> Tensor:
    """Sampling levels (num_steps + 1,) float64: num_steps of an ascending table, then 0.

    trailing: every (size / num_steps)-th counted from the last, which is visited. leading: counted from the first, so the last is
    not (Lin et al. 2024, Table 2). More steps than levels are evenly spaced over the table, between its levels by interpolation of
    log(sigma).
    """
    size = len(table)
    count = torch.arange(num_steps, dtype=torch.float64)
    if num_steps > size:
        place = torch.linspace(size - 1, 0, num_steps, dtype=torch.float64)
    elif spacing == "trailing":
        place = (size - count * (size / num_steps)).round() - 1
    else:
        place = (count * (size // num_steps)).flip(0)
    low = place.long()
    above = table[(low + 1).clamp(max=size - 1)]
    sigmas = table[low] * (above / table[low]) ** (place - low)
    return to_zero(sigmas, f"on a schedule of {size} levels from {table[-1]:.4g} to {table[0]:.4g}")


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


def until(sigmas: Tensor, sigma_end: float, lowest: float | None = None) -> Tensor:
    """The levels above sigma_end, then sigma_end itself: those of a truncated sampler. Raises ValueError if sigma_end is below
    `lowest`, by default the lowest level but 0, or not below the highest."""
    low, high = sigmas[-2].item() if lowest is None else lowest, sigmas[0].item()
    if not low <= sigma_end < high:
        raise ValueError(
            f"sigma_end {sigma_end} must be from {low:.4g}, the lowest level, to below {high:.4g}, the highest"
        )
    return torch.cat([sigmas[sigmas > sigma_end], sigmas.new_tensor([sigma_end])])
