"""Samplers of first order: one query a step, from x at level t to the next level s.

Each is x_s = D + kept (x - D) + fresh z with D = x0_hat and z standard normal. If D were x0 itself, x - D would be noise of std t,
so (kept t)^2 + fresh^2 = s^2 keeps the marginals. For a family of SDEs (Zhang et al. 2023, gDDIM, with lam = lambda^2) the exact
solution at constant D is

    kept = (s/t)^(1 + lam)        fresh = s sqrt(1 - (s/t)^(2 lam))

lam 0 is the probability-flow ODE (DDIM, `euler`), 1 the reverse SDE (DDPM's ancestral sampler with the small variance), infinity
forgets x (`consistency`). All formulas give x_0 = D exactly.
"""

import math
from typing import TYPE_CHECKING

from .churn import churned
from .query import Answer, Noise, Sampler, intervals, noised, query

if TYPE_CHECKING:
    from torch import Tensor


def euler(
    x: "Tensor", sigmas: "Tensor", *, noise: Noise, churn: float, churn_min: float, churn_max: float, churn_noise: float
) -> Sampler:
    """Euler's method; with these coordinates it is DDIM with eta = 0 (Song et al. 2020a, eq. 13). nfe = num_steps."""
    steps = intervals(sigmas)
    for step, (sigma, sigma_next) in enumerate(steps):
        if churn_min <= sigma <= churn_max:
            x, sigma = churned(x, sigma, churn / len(steps), churn_noise, noise, step)
        x0_hat = (yield query(x, sigma)).x0_hat
        x = x0_hat + (sigma_next / sigma) * (x - x0_hat)
    return x


def ddim(x: "Tensor", sigmas: "Tensor", *, noise: Noise, eta: float) -> Sampler:
    """DDIM (Song et al. 2020a, eq. 12 and 16) in sigma: the std of fresh noise is eta times that of the ancestral sampler.

    eta 0 is `euler` and draws nothing, 1 is `ddpm` with the small variance. nfe = num_steps.
    """
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        fresh = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        kept = math.sqrt(sigma_next**2 - fresh**2) / sigma
        x = noised(x0_hat + kept * (x - x0_hat), fresh, noise, f"step {step}")
    return x


def sde(x: "Tensor", sigmas: "Tensor", *, noise: Noise, lam: float) -> Sampler:
    """The family of the module's equation. nfe = num_steps."""
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        ratio = sigma_next / sigma
        fresh = sigma_next * math.sqrt(1 - ratio ** (2 * lam))
        x = noised(x0_hat + ratio ** (1 + lam) * (x - x0_hat), fresh, noise, f"step {step}")
    return x


def ddpm(x: "Tensor", sigmas: "Tensor", *, noise: Noise, variance: str) -> Sampler:
    """DDPM's ancestral sampler (Ho et al. 2020, algorithm 2) in sigma: kept = (s/t)^2, and of three variances one.

    small: s^2 (t^2 - s^2) / t^2, right if x0 is a single point. large: (t^2 - s^2) (1 + s^2) / (1 + t^2), DDPM's beta, right if x0
    is N(0, 1). learned: small + ((t^2 - s^2) / t^2)^2 Var(x0 | x), the variance of x_s given x, for x_s = (1 - s^2/t^2) x0 +
    (s/t)^2 x + sqrt(small) z. The last step adds none, as in the paper. In DDPM's own X = sqrt(alpha_bar) x
    the mean is (X - beta / sqrt(1 - alpha_bar) eps_hat) / sqrt(1 - beta); texts that have 1 - beta in place of alpha_bar under the
    inner root are wrong. nfe = num_steps. Raises ValueError if the learned variance is wanted of a network that gives none.
    """
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        answer = yield query(x, sigma)
        kept = (sigma_next / sigma) ** 2
        mean = answer.x0_hat + kept * (x - answer.x0_hat)
        if sigma_next == 0:
            return mean
        z = noise(f"step {step}", tuple(x.shape)).to(x)
        x = mean + ddpm_std(answer, sigma, sigma_next, variance) * z
    return x


def ddpm_std(answer: Answer, sigma: float, sigma_next: float, variance: str) -> "Tensor | float":
    """Std of the fresh noise of a `ddpm` step from sigma to sigma_next > 0: a number, or one for each value if it is learned."""
    share = 1 - (sigma_next / sigma) ** 2
    if variance == "large":
        return sigma * math.sqrt(share * (1 + sigma_next**2) / (1 + sigma**2))
    if variance == "small":
        return sigma_next * math.sqrt(share)
    if answer.var is None:
        raise ValueError("sampler ddpm: variance learned: this network gives no variance; choose small or large")
    return (sigma_next**2 * share + share**2 * answer.var).sqrt()


def consistency(x: "Tensor", sigmas: "Tensor", *, noise: Noise) -> Sampler:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): x0_hat, noised again to the next level. nfe = num_steps.

    For networks that map any level straight to x0. With a mere denoiser it does not converge: x0_hat is a mean, so each picture is
    a denoised mean, however many steps there are. The paper noises to sqrt(s^2 - sigma_min^2), for its x0 lies at sigma_min; ours
    lies at 0.
    """
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        x = noised(x0_hat, sigma_next, noise, f"step {step}")
    return x
