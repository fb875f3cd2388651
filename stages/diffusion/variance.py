"""Learned variance: a network with a second output says how uncertain each element of x0_hat is, Var(x0 | x).

    Var = exp(r) / P,    r = BOUND tanh(F_var / BOUND)

P is the parametrisation's weight: for EDM's, Var at the start, r = 0, is the posterior variance of normal data with std sigma_data.
What an ancestral step from level t to s needs follows from it (Bao et al. 2022): given x_t and x0, x_s is normal about a point that
is linear in x0, so variances add up,

    Var(x_s | x_t) = s^2 (t^2 - s^2) / t^2 + (1 - s^2 / t^2)^2 Var(x0 | x_t)

The first term, "small", is all of it where x0 is known; data N(0, 1) give (t^2 - s^2) (1 + s^2) / (1 + t^2), "large". Nichol and
Dhariwal 2021 (eq. 15) predict v in exp(v log large + (1 - v) log small) instead, one for each pair of levels.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from .parametrisation import Inputs, Parametrisation, expand
from .samplers import Answer

BOUND = 8.0  # of the logarithm of Var over the start's, so that one wrong element cannot decide an update


@dataclass(frozen=True, kw_only=True)
class WithVariance:
    """A `Parametrisation` of a network with twice the channels: `inner` reads the first half, the second is the variance."""

    inner: Parametrisation

    def inputs(
        self, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Inputs:
        """Those of `inner`."""
        return self.inner.inputs(x, sigma, low_res, aug_sigma)

    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Answer:
        """x0_hat of `inner`, and the variance."""
        F_mean, F_var = F.chunk(2, dim=1)
        ratio = (BOUND * (F_var.float() / BOUND).tanh()).exp()
        var = ratio / expand(self.weight(sigma, aug_sigma), ratio)
        return Answer(self.inner.estimate(F_mean, x, sigma, low_res, aug_sigma).x0_hat, var)

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None = None) -> Tensor:
        """That of `inner`."""
        return self.inner.weight(sigma, aug_sigma)


def small(t: float, s: float) -> float:
    """Variance of a step from t to s where x0 is known: DDPM's posterior variance, divided by alpha_bar at s."""
    return s**2 * (t**2 - s**2) / t**2


def large(t: float, s: float) -> float:
    """Variance of a step from t to s for data N(0, 1): DDPM's beta, divided by alpha_bar at s."""
    return (t**2 - s**2) * (1 + s**2) / (1 + t**2)


def step_variance(var: Tensor, t: float, s: float) -> Tensor:
    """Var(x_s | x_t) of Var(x0 | x_t)."""
    return small(t, s) + (1 - s**2 / t**2) ** 2 * var


def interpolated(v: Tensor, t: float, s: float) -> Tensor:
    """exp(v log large + (1 - v) log small), the variance that Nichol's v stands for; s > 0."""
    return small(t, s) * (large(t, s) / small(t, s)) ** v


def interpolation(variance: Tensor, t: float, s: float) -> Tensor:
    """The v of a step's variance, the inverse of `interpolated`; in [0, 1] where Var(x0 | x) is at most that of data N(0, 1)."""
    return (variance / small(t, s)).log() / math.log(large(t, s) / small(t, s))
