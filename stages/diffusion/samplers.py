"""Samplers are coroutines: they yield queries and are sent answers.

    answer = yield Query(x, sigma)

They integrate the probability-flow ODE dx/dsigma = (x - x0_hat) / sigma from x at sigmas[0] down to sigma = 0. They never hold a
network: `drive` runs a single one, an engine runs many at once in shared batches, and every answer can serve as a preview.

x (b, c, h, w) at sigmas[0]; sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing, last entry 0.
"""

import itertools
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # configs import this module without torch
    from torch import Tensor

    from .denoiser import Denoiser


@dataclass(frozen=True)
class Query:
    """A request for x0_hat of x (b, c, *size) at noise levels sigma (b,).

    rows (b,) int64: which images of the batch are queried, if not all; None: all.
    """

    x: "Tensor"
    sigma: "Tensor"
    rows: "Tensor | None" = None


@dataclass(frozen=True)
class Answer:
    """Answer to a query: x0_hat (b, c, *size), and var of the same shape, Var(x0 | x), if the network predicts it."""

    x0_hat: "Tensor"
    var: "Tensor | None" = None


Sampler = Generator[Query, Answer, "Tensor"]
"""Yields queries, receives answers, returns the finished x0."""

Noise = Callable[[str, tuple[int, ...]], "Tensor"]
"""Draws standard normal (b, ...) for a purpose and a shape; row k is a function of (seed, index[k], stage, purpose) alone. "start"
and "aug" are reserved: a sampler that draws noise on its way uses its own purposes, a new one at each step."""


def query(x: "Tensor", sigma: float) -> Query:
    """Query a batch at one common level."""
    return Query(x, x.new_full((len(x),), sigma))


def euler(x: "Tensor", sigmas: "Tensor") -> Sampler:
    """First order; with these coordinates it is DDIM with eta = 0 (Song et al. 2020a, eq. 13). nfe = num_steps."""
    for sigma, sigma_next in intervals(sigmas):
        x0_hat = (yield query(x, sigma)).x0_hat
        x = x0_hat + (sigma_next / sigma) * (x - x0_hat)
    return x


def heun(x: "Tensor", sigmas: "Tensor") -> Sampler:
    """Second order, EDM algorithm 1 without churn. nfe = 2 * num_steps - 1: the last interval, to 0, is an Euler step."""
    for sigma, sigma_next in intervals(sigmas):
        x0_hat = (yield query(x, sigma)).x0_hat
        slope = (x - x0_hat) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            x0_hat = (yield query(x_next, sigma_next)).x0_hat
            x_next = x + (sigma_next - sigma) * (slope + (x_next - x0_hat) / sigma_next) / 2
        x = x_next
    return x


def dpmpp_2m(x: "Tensor", sigmas: "Tensor") -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in sigma: lambda = -log(sigma), alpha = 1. nfe = num_steps.

    The multistep correction extrapolates x0_hat from the previous answer; the first step has none, and the last, to sigma = 0,
    takes x0_hat itself.
    """
    previous: tuple[float, Tensor] | None = None  # (lambda, x0_hat) of the previous step
    for sigma, sigma_next in intervals(sigmas):
        x0_hat = (yield query(x, sigma)).x0_hat
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


@dataclass(frozen=True, kw_only=True)
class Option:
    """A numeric setting that only some samplers read, an integer if its default is one. help: its description for users."""

    default: float
    low: float
    high: float
    help: str


@dataclass(frozen=True, kw_only=True)
class SamplerKind:
    """A sampler's properties.

    order: of its error in the step size. queries: the most it makes over num_steps intervals. draws: whether it needs noise
    after the start. options: its own settings by name; samplers that share a name share the option.
    """

    function: Callable[..., Sampler]
    order: int
    queries: Callable[[int], int] = int
    draws: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)

    def __call__(self, x: "Tensor", levels: "Tensor", noise: Noise, options: Mapping[str, Any]) -> Sampler:
        """Start the coroutine over `levels` from x, with noise and option values if this sampler reads them."""
        accepted = {name: options[name] for name in self.options}
        return self.function(x, levels, **({"noise": noise} if self.draws else {}), **accepted)


SAMPLERS = {
    "euler": SamplerKind(function=euler, order=1),
    "heun": SamplerKind(function=heun, order=2, queries=lambda num_steps: 2 * num_steps - 1),
    "dpmpp_2m": SamplerKind(function=dpmpp_2m, order=2),
}


def all_options() -> dict[str, Option]:
    """Options of all samplers, by name."""
    return {name: option for kind in SAMPLERS.values() for name, option in kind.options.items()}


def num_queries(name: str, num_steps: int) -> int:
    """Largest number of queries (nfe) of a sampler over num_steps intervals."""
    return SAMPLERS[name].queries(num_steps)


def drive(sampler: Sampler, denoise: "Denoiser") -> "Tensor":
    """Run one sampler to its end with one denoiser."""
    try:
        query = next(sampler)
        while True:
            query = sampler.send(Answer(denoise(query.x, query.sigma)))
    except StopIteration as stop:
        return stop.value


def intervals(sigmas: "Tensor") -> list[tuple[float, float]]:
    """Pairs (sigma, next sigma), one a step. Raises ValueError for levels that no sampler can visit."""
    levels = sigmas.double().tolist()
    if len(levels) < 2 or levels[-1] != 0 or not all(math.inf > a > b for a, b in itertools.pairwise(levels)):
        raise ValueError(
            f"sampler: sigmas must be finite, fall strictly and end in 0, at least two of them; got {levels}"
        )
    return list(itertools.pairwise(levels))
