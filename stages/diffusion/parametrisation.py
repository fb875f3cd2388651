"""How a network's output F becomes an answer: what the network gets, the estimate, the weight of its error.

`EDM` is the only one so far: Karras et al. 2022, Table 1, for one noisy observation, and its generalisation to two (denoiser.py)
where there is a low_res.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import combine, scalings
from .samplers import Answer


class Inputs(NamedTuple):
    """Of a network. x (b, c', *size): the noisy x and what is concatenated to it; noise (b,); aug (b,) or None: the level of what
    is given beside x; both as the network is told them."""

    x: Tensor
    noise: Tensor
    aug: Tensor | None


class Parametrisation(Protocol):
    """x (b, c, *size) at sigma (b,); low_res, augmented by aug_sigma (b,), where there is one. F (b, c, *size)."""

    def inputs(self, x: Tensor, sigma: Tensor, low_res: Tensor | None, aug_sigma: Tensor | None) -> Inputs: ...
    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None, aug_sigma: Tensor | None
    ) -> Answer: ...
    def weight(self, sigma: Tensor, aug_sigma: Tensor | None) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class EDM:
    """sigma_data: std of x0. low_res_sigma: std of what upsampling lost, None for a stage without low_res."""

    sigma_data: float
    low_res_sigma: float | None = None

    def inputs(
        self, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Inputs:
        error = self.error(aug_sigma)
        s = scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=error)
        inputs = x * expand(s.c_in, x)
        if low_res is not None:
            inputs = torch.cat([inputs, low_res * expand(s.c_in_low, x)], dim=1)
        return Inputs(inputs, s.c_noise, None if error is None else error.log() / 4)

    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Answer:
        s = scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=self.error(aug_sigma))
        return Answer(combine(x, low_res, F, s))

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None = None) -> Tensor:
        """(b,) of the squared error: the expected loss is then equal at all levels at the start."""
        return scalings(sigma, sigma_data=self.sigma_data, low_res_sigma=self.error(aug_sigma)).weight

    def error(self, aug_sigma: Tensor | None) -> Tensor | None:
        """Std (b,) of the condition's error: what upsampling lost and what augmentation added. None where there is no low_res."""
        if aug_sigma is None or self.low_res_sigma is None:
            return None
        return (aug_sigma.float().square() + self.low_res_sigma**2).sqrt()


def expand(value: Tensor, x: Tensor) -> Tensor:
    """(b,) to (b, 1, ...) in the dtype of x."""
    return value.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
