"""Control of sampling by a given picture: where image-to-image starts, resampling for inpainting, inversion.

Inpainting needs no sampler of its own. Every sampler here integrates dx/dsigma = (x - x0_hat) / sigma; where x0_hat is the known P,
the solution from P + t n is P + s n at every level s: the known picture with the image's own noise n, which is what Song et al.
(2021, appendix I.2) and RePaint put there at each step. So `pinned(x0_hat, known, P)` in the answers is enough.
"""

import itertools
import math

import torch
from torch import Tensor

from .samplers import Noise, Sampler, intervals, query


def start_level(strength: float, sigma_data: float, sigma_max: float) -> float:
    """The level of a strength in (0, 1]: sigma_data tan(strength pi / 2), at most sigma_max.

    The angle of the circle that v-prediction and the cosine schedule walk on (Nichol and Dhariwal 2021; Lu and Song 2024): at 0.5
    picture and noise are equally strong. SDEdit's t0 (Meng et al. 2021), in a unit that does not depend on the grid of levels.
    """
    return sigma_max if strength == 1 else min(sigma_max, sigma_data * math.tan(strength * math.pi / 2))


def num_resampled(num_steps: int, times: int) -> int:
    """Number of queries of `resampled` over num_steps intervals."""
    return times * (num_steps - 1) + 1


def resampled(x: Tensor, sigmas: Tensor, noise: Noise, times: int) -> Sampler:
    """RePaint (Lugmayr et al. 2022, algorithm 1, jumps of one step): each step but the last is made `times` times, with the forward
    process back to its level between them, so that what is painted and what is known agree. Steps are Euler's (DDIM)."""
    for number, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        for turn in range(times if sigma_next > 0 else 1):
            if turn:
                x = x + math.sqrt(sigma**2 - sigma_next**2) * noise(f"resample-{number}-{turn}", tuple(x.shape))
            x0_hat = (yield query(x, sigma)).x0_hat
            x = x0_hat + (sigma_next / sigma) * (x - x0_hat)
    return x


def num_inverted(num_steps: int) -> int:
    """Number of queries of `inverted` over the levels of num_steps intervals."""
    return 2 * (num_steps - 1)


def inverted(x0: Tensor, sigmas: Tensor) -> Sampler:
    """The x at sigmas[0] from which the probability-flow ODE leads to x0: the same ODE upwards by Heun's method (DDIM inversion,
    Song et al. 2020a, section 4.3, is its first order). It begins at the last level above 0, where x0 itself is as good as data."""
    x, levels = x0, [level for level, _ in reversed(intervals(sigmas))]
    for sigma, sigma_next in itertools.pairwise(levels):
        slope = (x - (yield query(x, sigma)).x0_hat) / sigma
        x_next = x + (sigma_next - sigma) * slope
        slope_next = (x_next - (yield query(x_next, sigma_next)).x0_hat) / sigma_next
        x = x + (sigma_next - sigma) * (slope + slope_next) / 2
    return x


def pinned(x0_hat: Tensor, known: Tensor, x0: Tensor) -> Tensor:
    """x0 where known (b, 1, *size), x0_hat elsewhere, bit for bit."""
    return torch.where(known, x0, x0_hat)
