"""Langevin dynamics at a level of noise: alone from level to level (annealed), and as the corrector of a predictor.

A step of size r at level sigma, with the score (x0_hat - x) / sigma^2:

    x <- x + r (x0_hat - x) + sqrt(2 r) sigma z

r is without unit. On data of variance v its stationary variance is (v + sigma^2) / (1 - r k / 2) with k = sigma^2 / (v + sigma^2):
right for small r, and at most a factor of 1 / (1 - r / 2) too large.
"""

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

from .query import Answer, Noise, Query, Sampler, intervals, noised, query

if TYPE_CHECKING:
    from torch import Tensor


def langevin(x: "Tensor", sigmas: "Tensor", *, noise: Noise, corrector_steps: int, corrector_size: float) -> Sampler:
    """Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1, with alpha_i = 2 r sigma_i^2), then x0_hat.

    x passes unchanged to each next level, where it takes corrector_steps steps; it starts from the first level's marginal. nfe =
    (num_steps - 1) * corrector_steps + 1.
    """
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        if sigma_next == 0:
            return (yield query(x, sigma)).x0_hat
        x = yield from corrected(x, sigma_next, step, noise, corrector_steps, corrector_size)
    return x


def pc(x: "Tensor", sigmas: "Tensor", *, noise: Noise, corrector_steps: int, corrector_size: float) -> Sampler:
    """Predictor-corrector (Song et al. 2021, algorithm 2): an ancestral step, then Langevin steps at the level where it arrives.

    nfe = num_steps + (num_steps - 1) * corrector_steps. The paper's size depends on the norms of a whole batch, which would make an
    image depend on its company: r here is 2 snr^2 there, where the score's norm is that of noise over sigma.
    """
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        ratio = sigma_next / sigma
        x = x0_hat + ratio**2 * (x - x0_hat)
        if sigma_next == 0:
            return x
        x = noised(x, sigma_next * math.sqrt(1 - ratio**2), noise, f"step {step}")
        x = yield from corrected(x, sigma_next, step, noise, corrector_steps, corrector_size)
    return x


def corrected(
    x: "Tensor", sigma: float, step: int, noise: Noise, num: int, size: float
) -> "Generator[Query, Answer, Tensor]":
    """Take `num` Langevin steps of a size at one level."""
    for count in range(num):
        x0_hat = (yield query(x, sigma)).x0_hat
        x = noised(x + size * (x0_hat - x), math.sqrt(2 * size) * sigma, noise, f"corrector {step} {count}")
    return x
