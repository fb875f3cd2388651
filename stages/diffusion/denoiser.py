"""Preconditioning: turns a network F of unit-variance inputs and outputs into a denoiser x0_hat = E[x0 | x, low_res].

EDM (Karras et al. 2022, Table 1) derives it for one noisy observation x = x0 + sigma * eps. A super-resolution stage has a second
one, low_res_aug = x0 + error, whose error (the loss by upsampling plus the augmentation) has std s. For independent Gaussian errors
the best linear estimate weighs each observation by its precision, which leaves the network the posterior variance 1 / P:

    P = 1/sigma_data^2 + 1/sigma^2 + 1/s^2
    x0_hat = (x / sigma^2 + low_res_aug / s^2) / P + F / sqrt(P)        loss weight P

With s = infinity this is EDM's table exactly. So a super-resolution network starts as a Wiener filter of its two inputs
instead of having to learn to copy one of them, and its training target has unit variance at every (sigma, s) for which the error is
independent of x0. The error of upsampling is not quite: on pictures the variance reaches 1.2 where sigma is much larger than s.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .corrupt import expand_to


class Denoiser(Protocol):
    """Maps x (b, c, h, w) at sigma (b,) to x0_hat (b, c, h, w)."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Scalings:
    """Per-image scalars (b,) float32. `c_low` and `c_in_low` are 0 without low_res."""

    c_skip: Tensor
    c_low: Tensor
    c_out: Tensor
    c_in: Tensor
    c_in_low: Tensor
    c_noise: Tensor
    weight: Tensor


def scalings(sigma: Tensor, *, sigma_data: float, low_res_sigma: Tensor | None = None) -> Scalings:
    """Compute the scalars of the module's equation at sigma (b,) > 0 and low_res_sigma (b,) > 0 (s above; None is infinity).

    c_noise = log(sigma) / 4 (EDM). weight = 1 / c_out^2 makes the loss E|F - target|^2.
    """
    sigma = sigma.float()
    precision = 1 / sigma_data**2 + sigma**-2
    low_precision = torch.zeros_like(sigma) if low_res_sigma is None else low_res_sigma.float() ** -2
    total = precision + low_precision
    return Scalings(
        c_skip=sigma**-2 / total,
        c_low=low_precision / total,
        c_out=total.rsqrt(),
        c_in=(sigma**2 + sigma_data**2).rsqrt(),
        c_in_low=(low_precision / (1 + sigma_data**2 * low_precision)).sqrt(),
        c_noise=sigma.log() / 4,
        weight=total,
    )


def weighted_error(x0_hat: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """Weight times the mean squared error of each image, (b,) (EDM, eq. 2 with lambda = weight)."""
    return weight * (x0_hat - x0).float().square().flatten(1).mean(1)


def combine(x: Tensor, low_res: Tensor | None, F: Tensor, s: Scalings) -> Tensor:
    """Compute x0_hat from the network's output F, in float32."""
    x0_hat = expand_to(s.c_skip, x) * x + expand_to(s.c_out, x) * F.to(x.dtype)
    return x0_hat if low_res is None else x0_hat + expand_to(s.c_low, x) * low_res
