"""Samplers are coroutines: they yield what they want denoised and receive x0_hat.

    x0_hat = yield Query(x, sigma)

They integrate the probability-flow ODE dx/dsigma = (x - x0_hat) / sigma from x at sigmas[0] down to sigma = 0. They never hold a
network: `drive` runs one alone, an engine runs many at once in shared batches, and every answer is already a preview.

x (b, c, h, w) at sigmas[0]; sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing, last entry 0.
"""

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser


@dataclass(frozen=True)
class Query:
    """A wish for x0_hat of x (b, c, h, w) at noise level sigma (b,)."""

    x: Tensor
    sigma: Tensor


Sampler = Generator[Query, Tensor, Tensor]
"""Yields queries, receives x0_hat, returns the finished x0."""


def query(x: Tensor, sigma: float) -> Query:
    """The query of a batch that stands at one common level."""
    return Query(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))


def euler(x: Tensor, sigmas: Tensor) -> Sampler:
    """First order; with these coordinates it is DDIM with eta = 0 (Song et al. 2020a, eq. 13). nfe = num_steps."""
    for sigma, sigma_next in _intervals(sigmas):
        x0_hat = yield query(x, sigma)
        x = x0_hat + (sigma_next / sigma) * (x - x0_hat)
    return x


def heun(x: Tensor, sigmas: Tensor) -> Sampler:
    """Second order, EDM algorithm 1 without churn. nfe = 2 * num_steps - 1: the last interval, to 0, is an Euler step."""
    for sigma, sigma_next in _intervals(sigmas):
        x0_hat = yield query(x, sigma)
        slope = (x - x0_hat) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            x0_hat = yield query(x_next, sigma_next)
            x_next = x + (sigma_next - sigma) * (slope + (x_next - x0_hat) / sigma_next) / 2
        x = x_next
    return x


def dpmpp_2m(x: Tensor, sigmas: Tensor) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in sigma: lambda = -log(sigma), alpha = 1. nfe = num_steps.

    The multistep correction extrapolates x0_hat from the previous answer; the first step has none, and the last, to sigma = 0,
    takes x0_hat itself.
    """
    previous: tuple[float, Tensor] | None = None  # (lambda, x0_hat) of the step before
    for sigma, sigma_next in _intervals(sigmas):
        x0_hat = yield query(x, sigma)
        if sigma_next == 0:
            return x0_hat
        lam, lam_next = -math.log(sigma), -math.log(sigma_next)
        estimate = x0_hat
        if previous is not None:
            ratio = (lam_next - lam) / (lam - previous[0])
            estimate = x0_hat + (ratio / 2) * (x0_hat - previous[1])
        x = estimate + (sigma_next / sigma) * (x - estimate)
        previous = (lam, x0_hat)
    return x


SAMPLERS: dict[str, Callable[[Tensor, Tensor], Sampler]] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def num_queries(name: str, num_steps: int) -> int:
    """How many times a sampler asks (nfe) over num_steps intervals."""
    return 2 * num_steps - 1 if name == "heun" else num_steps


def drive(sampler: Sampler, denoise: Denoiser) -> Tensor:
    """Runs one sampler to its end with one denoiser."""
    try:
        wanted = next(sampler)
        while True:
            wanted = sampler.send(denoise(wanted.x, wanted.sigma))
    except StopIteration as done:
        return done.value


def _intervals(sigmas: Tensor) -> list[tuple[float, float]]:
    levels = sigmas.double().tolist()
    if len(levels) < 2 or levels[-1] != 0 or not all(math.inf > a > b for a, b in itertools.pairwise(levels)):
        raise ValueError(
            f"sampler: sigmas must be finite, fall strictly and end in 0, at least two of them; got {levels}"
        )
    return list(itertools.pairwise(levels))
