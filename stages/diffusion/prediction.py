"""Classical targets: the network's output F is read as the noise, the picture, the velocity, or the flow, at unit variance.

Each answers x0_hat = c_skip x + c_out F. With the weight 1 / c_out^2 the loss is E|F - target|^2, the one that its paper trains,
and the target has unit variance at every level. d stands for sigma_data; every target is divided by its std:

    eps    the noise (Ho et al. 2020)                         x0_hat = x - sigma F
    x0     the picture over d                                 x0_hat = d F
    v      alpha eps - sqrt(1 - alpha^2) x0 / d               x0_hat = (d^2 x - sigma d sqrt(sigma^2 + d^2) F) / (sigma^2 + d^2)
           (Salimans and Ho 2022) of the state alpha (x0 / d) + sqrt(1 - alpha^2) eps; -F is EDM's
    flow   eps - x0 (Liu et al. 2022) of (1 - t) x0 + t eps   x0_hat = (x - sigma sqrt(1 + d^2) F) / (1 + sigma)
           with t = sigma / (1 + sigma)

low_res, where there is one, is an input of the network and takes no part in the estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .parametrisation import EDM, expand
from .samplers import Answer


def of_eps(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the noise."""
    return sigma.new_ones(sigma.shape), -sigma


def of_x0(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the picture."""
    return sigma.new_zeros(sigma.shape), sigma.new_full(sigma.shape, sigma_data)


def of_v(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the velocity."""
    total = sigma.square() + sigma_data**2
    return sigma_data**2 / total, -sigma * sigma_data * total.rsqrt()


def of_flow(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the flow."""
    return 1 / (1 + sigma), -sigma * (1 + sigma_data**2) ** 0.5 / (1 + sigma)


TARGETS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "eps": of_eps,
    "x0": of_x0,
    "v": of_v,
    "flow": of_flow,
}


@dataclass(frozen=True, kw_only=True)
class Prediction(EDM):
    """A target of TARGETS, with EDM's inputs."""

    target: str

    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Answer:
        """Compute c_skip x + c_out F."""
        c_skip, c_out = TARGETS[self.target](sigma.float(), self.sigma_data)
        return Answer(expand(c_skip, x) * x + expand(c_out, x) * F.to(x.dtype))

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None = None) -> Tensor:
        """1 / c_out^2 (b,): the squared error of x0_hat becomes that of F."""
        _, c_out = TARGETS[self.target](sigma.float(), self.sigma_data)
        return c_out**-2
