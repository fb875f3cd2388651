"""Laws of training levels: each maps uniform u (b,) float64 in [0, 1) to sigma (b,) by its inverse distribution function.

So one uniform number determines one level, and equal parts of [0, 1) are equal shares of the images. `noise.lognormal_sigma` is the
default one. Schedules of discrete texts are laws of t uniform; those that reach sigma = 0 or infinity are cut to [low, high].
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BETA_MIN, BETA_MAX = 0.1, 20.0  # of the linear schedule in continuous time: 1000 times DDPM's 1e-4 and 0.02


def lognormal(u: "Tensor", *, mean: float, std: float) -> "Tensor":
    """log(sigma) ~ N(mean, std^2) (EDM)."""
    from .noise import lognormal_sigma

    return lognormal_sigma(u, mean=mean, std=std)


def logit_normal(u: "Tensor", *, mean: float, std: float) -> "Tensor":
    """logit(t) ~ N(mean, std^2) for the time t of a flow (Esser et al. 2024, eq. 19).

    t = sigma / (1 + sigma), so logit(t) = log(sigma): this is the lognormal law with other numbers. A shift of the schedule by a
    factor (there eq. 23) adds its logarithm to the mean.
    """
    return lognormal(u, mean=mean, std=std)


def log_uniform(u: "Tensor", *, low: float, high: float) -> "Tensor":
    """log(sigma) uniform from low to high."""
    return (math.log(low) + u * math.log(high / low)).exp()


def cosine(u: "Tensor", *, low: float, high: float) -> "Tensor":
    """t uniform, alpha_bar = cos(pi t / 2)^2, so sigma = tan(pi t / 2) (Nichol and Dhariwal 2021, eq. 17; their offset cuts the
    smallest levels off, as low does)."""
    begin, end = math.atan(low), math.atan(high)
    return (begin + u * (end - begin)).tan()


def linear(u: "Tensor", *, low: float, high: float) -> "Tensor":
    """t uniform, beta(t) = 0.1 + 19.9 t, so sigma^2 = exp(0.1 t + 9.95 t^2) - 1: DDPM's schedule in continuous time (Song et al.
    2020b, appendix C). high is at most `LINEAR_MAX`, where t = 1."""
    begin, end = linear_time(low), linear_time(high)
    t = begin + u * (end - begin)
    return (BETA_MIN * t + (BETA_MAX - BETA_MIN) / 2 * t.square()).expm1().sqrt()


def linear_time(sigma: float) -> float:
    """The t at which the linear schedule reaches sigma."""
    integral, slope = math.log1p(sigma**2), BETA_MAX - BETA_MIN
    return (math.sqrt(BETA_MIN**2 + 2 * slope * integral) - BETA_MIN) / slope


LINEAR_MAX = math.sqrt(math.expm1((BETA_MIN + BETA_MAX) / 2))
