"""Weights of |x0_hat - x0|^2 as functions of sigma, one for each loss of the literature.

A loss on another target is the same error under another weight, because every target is linear in x0 once x is given:

    eps = (x - x0) / sigma                    |eps_hat - eps|^2 = sigma^-2 |x0_hat - x0|^2
    v = (eps - sigma x0) / sqrt(1 + sigma^2)  |v_hat - v|^2 = (1 + sigma^-2) |x0_hat - x0|^2
    u = eps - x0  (flow)                      |u_hat - u|^2 = (1 + 1/sigma)^2 |x0_hat - x0|^2

Time of a flow, x_t = (1 - t) x0 + t eps, is t = sigma / (1 + sigma). snr = sigma^-2. All take and return (b,).
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def eps(sigma: "Tensor") -> "Tensor":
    """sigma^-2, the simple loss of DDPM (Ho et al. 2020, eq. 14)."""
    return sigma**-2


def x0(sigma: "Tensor") -> "Tensor":
    """1, the plain error of the picture."""
    return sigma**0


def v(sigma: "Tensor") -> "Tensor":
    """1 + sigma^-2, "SNR + 1" (Salimans and Ho 2022, section 4)."""
    return 1 + sigma**-2


def flow(sigma: "Tensor") -> "Tensor":
    """(1 + 1/sigma)^2, flow matching on straight paths (Lipman et al. 2023; Liu et al. 2023)."""
    return (1 + 1 / sigma).square()


def edm(sigma: "Tensor", *, sigma_data: float) -> "Tensor":
    """1/sigma_data^2 + 1/sigma^2 (Karras et al. 2022, Table 1)."""
    return sigma_data**-2 + sigma**-2


def min_snr(sigma: "Tensor", *, gamma: float) -> "Tensor":
    """min(snr, gamma) (Hang et al. 2023)."""
    return (sigma**-2).clamp(max=gamma)


def soft_min_snr(sigma: "Tensor", *, gamma: float) -> "Tensor":
    """snr gamma / (snr + gamma) = 1 / (sigma^2 + 1/gamma) (Crowson et al. 2024)."""
    return 1 / (sigma.square() + 1 / gamma)


def p2(sigma: "Tensor", *, gamma: float, k: float) -> "Tensor":
    """snr / (k + snr)^gamma: the eps weight, lowered where snr is large (Choi et al. 2022)."""
    snr = sigma**-2
    return snr * (k + snr) ** -gamma


def sigmoid(sigma: "Tensor", *, bias: float) -> "Tensor":
    """snr sigmoid(bias - log snr): the eps weight times a sigmoid (Kingma and Gao 2023, bias 2; Hoogeboom et al. 2024).

    Written as 1 / (sigma^2 + exp(-bias)), so `soft_min_snr` is this with gamma = exp(bias). The papers weigh each step in log snr
    alike, which is this weight at `log_uniform` levels.
    """
    return 1 / (sigma.square() + math.exp(-bias))
