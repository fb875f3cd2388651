"""Processes of the field as views of sigma: VE, VP and sub-VP with their forward SDE, reverse SDE and probability-flow ODE.

Song et al. 2021 write dX = f X dt + g dW. Every such process is a scaled one in sigma, X = scale(sigma) (x0 + sigma eps), and with
sigma itself for time

    f = scale' / scale        g^2 = 2 sigma scale^2

The reverse SDE and the ODE are members of one family (lam 1 and 0) with the same marginals at each level, for sigma that falls:

    dX = (f X - (1 + lam) / 2 g^2 score) dsigma + sqrt(lam) g dW        score = (scale x0_hat - X) / (scale sigma)^2

VP is DDPM's state, where scale = sqrt(alpha_bar). Samplers compute in VE, where scale = 1: they solve all three at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .corrupt import expand_to


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process by functions of sigma (b,): its scale, and its rate f of drift per unit of sigma. X (b, c, *size)."""

    scale: Callable[[Tensor], Tensor]
    rate: Callable[[Tensor], Tensor]

    def state(self, x: Tensor, sigma: Tensor) -> Tensor:
        """X of x = x0 + sigma eps."""
        return expand_to(self.scale(sigma), x) * x

    def diffusion(self, sigma: Tensor) -> Tensor:
        """g (b,): the std of dW per root of a unit of sigma."""
        return (2 * sigma).sqrt() * self.scale(sigma)

    def forward(self, X: Tensor, sigma: Tensor) -> Tensor:
        """Drift of the forward SDE, f X, for sigma that grows."""
        return expand_to(self.rate(sigma), X) * X

    def score(self, X: Tensor, sigma: Tensor, x0_hat: Tensor) -> Tensor:
        """Gradient of log p(X; sigma), by Tweedie's formula."""
        scale = self.scale(sigma)
        return (expand_to(scale, X) * x0_hat - X) / expand_to(scale * sigma, X).square()

    def reverse(self, X: Tensor, sigma: Tensor, x0_hat: Tensor, lam: float = 1.0) -> Tensor:
        """Drift of the family's SDE for sigma that falls; its noise is sqrt(lam) `diffusion`. lam 1: the reverse SDE."""
        share = (1 + lam) / 2 * self.diffusion(sigma).square()
        return self.forward(X, sigma) - expand_to(share, X) * self.score(X, sigma, x0_hat)

    def flow(self, X: Tensor, sigma: Tensor, x0_hat: Tensor) -> Tensor:
        """dX/dsigma of the probability-flow ODE."""
        return self.reverse(X, sigma, x0_hat, lam=0.0)


def sub_vp_scale(sigma: Tensor) -> Tensor:
    """The scale a of sub-VP, whose noise has std 1 - a^2: the positive root of a^2 + sigma a - 1."""
    return 2 / (sigma + (sigma.square() + 4).sqrt())


PROCESSES = {
    "ve": Process(scale=lambda sigma: sigma.new_ones(sigma.shape), rate=lambda sigma: sigma.new_zeros(sigma.shape)),
    "vp": Process(scale=lambda sigma: (1 + sigma.square()).rsqrt(), rate=lambda sigma: -sigma / (1 + sigma.square())),
    "sub_vp": Process(scale=sub_vp_scale, rate=lambda sigma: -((sigma.square() + 4).rsqrt())),
}
