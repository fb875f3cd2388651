"""Denoising score matching (EDM, eq. 2 and 8): the expectation over sigma, eps of weight(sigma) |x0_hat - x0|^2."""

from torch import Tensor

from data.batch import Cond

from ..diffusion.corrupt import add_noise
from ..diffusion.denoiser import weighted_error
from ..diffusion.noise import lognormal_sigma
from ..draws import Draws
from .denoising_config import DenoisingConfig
from .objective import Denoises, Levels, Objective


class Denoising(Objective[Levels]):
    """The default objective of every stage."""

    def __init__(self, config: DenoisingConfig):
        self.config = config

    def levels(self, stage: Denoises, u: Tensor) -> Levels:
        """Levels with normally distributed log(sigma)."""
        noise = stage.config.noise
        return Levels(sigma=lognormal_sigma(u, mean=noise.mean, std=noise.std))

    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: Levels, draws: Draws) -> Tensor:
        """Weighted squared error (b,) of each image, averaged over its elements."""
        x = add_noise(x0, levels.sigma, draws.noise("eps", x0.shape))
        x0_hat = stage.denoise(x, levels.sigma, cond).x0_hat
        return weighted_error(x0_hat, x0, stage.parametrisation.weight(levels.sigma, cond.value("aug")))


DENOISING = Denoising(DenoisingConfig.defaults())
