"""Parametrisations: how a network's output F becomes an answer. Each defines the inputs, the estimate and the loss weight.

`EDM` is the default: Karras et al. 2022, Table 1, for one noisy observation, generalised to two (denoiser.py) with low_res.
Classical targets are in prediction.py.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import combine, scalings
from .samplers import Answer


class Inputs(NamedTuple):
    """Inputs of a network. x (b, c', *size): the scaled noisy x, with the scaled low_res concatenated to its channels.

    noise (b,): embedding input for sigma. aug (b,) or None: embedding input for the error of low_res.
    """

    x: Tensor
    noise: Tensor
    aug: Tensor | None


class Parametrisation(Protocol):
    """Interface. x (b, c, *size) at sigma (b,); low_res, augmented with aug_sigma (b,), or None; F (b, c, *size)."""

    def inputs(self, x: Tensor, sigma: Tensor, low_res: Tensor | None, aug_sigma: Tensor | None) -> Inputs:
        """Scale x and low_res to unit variance and compute the embedding inputs."""
        ...

    def estimate(self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None, aug_sigma: Tensor | None) -> Answer:
        """Compute x0_hat from the network's output F."""
        ...

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None) -> Tensor:
        """Weight (b,) of the squared error."""
        ...


@dataclass(frozen=True, kw_only=True)
class EDM:
    """EDM's preconditioning. sigma_data: std of x0. low_res_sigma: std of the loss by upsampling, None for a stage without
    low_res."""

    sigma_data: float
    low_res_sigma: float | None = None

    def inputs(
        self, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Inputs:
        """Scale x and low_res to unit variance; noise is log(sigma) / 4, aug log(error) / 4."""
        error = self.error(aug_sigma)
        s = scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=error)
        inputs = x * expand(s.c_in, x)
        if low_res is not None:
            inputs = torch.cat([inputs, low_res * expand(s.c_in_low, x)], dim=1)
        return Inputs(inputs, s.c_noise, None if error is None else error.log() / 4)

    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Answer:
        """Combine x, low_res and F, each weighted by its precision."""
        s = scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=self.error(aug_sigma))
        return Answer(combine(x, low_res, F, s))

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None = None) -> Tensor:
        """Weight (b,) of the squared error; it makes the expected loss at the start equal at all levels."""
        return scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=self.error(aug_sigma)).weight

    def error(self, aug_sigma: Tensor | None) -> Tensor | None:
        """Std (b,) of the condition's error, from upsampling and augmentation together; None without low_res."""
        if aug_sigma is None or self.low_res_sigma is None:
            return None
        return (aug_sigma.float().square() + self.low_res_sigma**2).sqrt()


def expand(value: Tensor, x: Tensor) -> Tensor:
    """Reshape (b,) to (b, 1, ...) in the dtype of x."""
    return value.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
