"""Multistep samplers: one query a step, and earlier answers for a higher order. All of them in lambda = -log(sigma).

DPM-Solver++ (Lu et al. 2022) solves the ODE, or the SDE of first_order.py's family, with x0_hat extrapolated as a polynomial in
lambda. With l from level t to the next level s, h = (1 + lam) (l_s - l_t) and phi_1(h) = 1 - exp(-h):

    x_s = exp(-h) x + phi_1 D + phi_2 D' + phi_3 D'' / 2 + s sqrt(1 - (s/t)^(2 lam)) z
    phi_2 = 1 - phi_1 / h        phi_3 = 1 - 2 phi_2 / h

lam 0 is the ODE. D' and D'' are derivatives by lambda times l_s - l_t and its square, estimated by differences of answers. The step
to sigma = 0 takes x0_hat itself.
"""

import math
from typing import TYPE_CHECKING

from .query import Noise, Sampler, intervals, noised, query

if TYPE_CHECKING:
    from torch import Tensor


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


def dpmpp_2m_sde(x: "Tensor", sigmas: "Tensor", *, noise: Noise, lam: float) -> Sampler:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, eq. 18), in its midpoint form; lam 0 is `dpmpp_2m`. nfe = num_steps."""
    before: tuple[float, Tensor] | None = None  # level and x0_hat of the previous step
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        if sigma_next == 0:
            return x0_hat
        ratio = sigma_next / sigma
        estimate = x0_hat
        if before is not None:
            estimate = x0_hat + math.log(ratio) / (2 * math.log(sigma / before[0])) * (x0_hat - before[1])
        x = estimate + ratio ** (1 + lam) * (x - estimate)
        x = noised(x, sigma_next * math.sqrt(1 - ratio ** (2 * lam)), noise, f"step {step}")
        before = (sigma, x0_hat)
    return x


def dpmpp_3m(x: "Tensor", sigmas: "Tensor") -> Sampler:
    """DPM-Solver++(3M): `dpmpp_3m_sde` with lam 0, which draws nothing. nfe = num_steps."""
    return (yield from dpmpp_3m_sde(x, sigmas, noise=no_noise, lam=0.0))


def dpmpp_3m_sde(x: "Tensor", sigmas: "Tensor", *, noise: Noise, lam: float) -> Sampler:
    """The module's equation with three answers (Lu et al. 2022, appendix B; as an SDE: k-diffusion). nfe = num_steps.

    The paper's code, diffusers and k-diffusion give D'' half of its weight: they take the second difference for the second
    derivative, of which it is half. That has order 2 (a test shows both). The first step has one answer and the second two: their
    errors are of second order and small, since x0_hat hardly changes where sigma is far above the data's std.
    """
    known: list[tuple[float, Tensor]] = []  # lambda and x0_hat of the latest three steps, latest first
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        if sigma_next == 0:
            return x0_hat
        known = [(-math.log(sigma), x0_hat), *known[:2]]
        advance = math.log(sigma / sigma_next)
        h = (1 + lam) * advance
        phi_2 = math.expm1(-h) / h + 1
        x = math.exp(-h) * x - math.expm1(-h) * x0_hat
        if len(known) > 1:
            first, second = differences(known, advance)
            x = x + phi_2 * first + (1 - 2 * phi_2 / h) * second
        x = noised(x, sigma_next * math.sqrt(-math.expm1(-2 * lam * advance)), noise, f"step {step}")
    return x


def differences(known: "list[tuple[float, Tensor]]", advance: float) -> "tuple[Tensor, Tensor | float]":
    """First and second derivative of x0_hat by lambda, times advance and its square (the second halved), from two or three points.

    known: lambda and x0_hat, latest first. With two points the second is 0.
    """
    (lam, x0_hat), (lam_1, x0_1), *rest = known
    r_0 = (lam - lam_1) / advance
    near = (x0_hat - x0_1) / r_0
    if not rest:
        return near, 0.0
    lam_2, x0_2 = rest[0]
    r_1 = (lam_1 - lam_2) / advance
    far = (x0_1 - x0_2) / r_1
    second = (near - far) / (r_0 + r_1)
    return near + r_0 * second, second


def unipc(x: "Tensor", sigmas: "Tensor") -> Sampler:
    """UniPC-2 with B(h) = exp(-h) - 1 (Zhao et al. 2023, algorithms 1 to 3): third order from two answers. nfe = num_steps.

    Each query is at the predictor's x; its answer then corrects that x (UniC) before the next prediction (UniP): no further call.
    The first step predicts and corrects with first order, the last takes x0_hat.
    """
    before: list[tuple[float, Tensor]] = []  # lambda and x0_hat of the latest two queries, latest first
    base = x  # x at the level of the latest query but one, corrected
    for sigma, sigma_next in intervals(sigmas):
        x0_hat = (yield query(x, sigma)).x0_hat
        if sigma_next == 0:
            return x0_hat
        if before:
            x = corrected(base, x0_hat, -math.log(sigma), before)
        before = [(-math.log(sigma), x0_hat), *before[:1]]
        advance = math.log(sigma / sigma_next)
        estimate = x0_hat
        if len(before) > 1:
            estimate = x0_hat + advance / (2 * (before[0][0] - before[1][0])) * (x0_hat - before[1][1])
        base, x = x, estimate + (sigma_next / sigma) * (x - estimate)
    return x


def corrected(base: "Tensor", x0_hat: "Tensor", lam: float, before: "list[tuple[float, Tensor]]") -> "Tensor":
    """UniC: x at lambda `lam` from base, the x one step before, by the answers there, at `before`, and here, x0_hat.

    The weights of the differences are those that make the step exact for polynomials (Zhao et al. 2023, eq. 5), with
    B(h) = exp(-h) - 1 for a network that predicts x0.
    """
    (lam_0, x0_0), *earlier = before
    h = lam - lam_0
    step = math.expm1(-h)
    change = (x0_hat - x0_0) / 2
    if earlier:
        r = (earlier[0][0] - lam_0) / h
        first = (step / -h - 1) / -h - 0.5
        moments = (step / -h - 1) / step, 2 * first / step
        weight = (moments[0] - moments[1]) / (1 - r)
        change = weight * (earlier[0][1] - x0_0) / r + (moments[0] - weight) * (x0_hat - x0_0)
    return math.exp(-h) * base - step * (x0_0 + change)


def no_noise(purpose: str, shape: tuple[int, ...]) -> "Tensor":
    """The noise of a sampler that draws none."""
    raise AssertionError(f"drawn for {purpose}")
