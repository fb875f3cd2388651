"""Denoising score matching (EDM, eq. 2 and 8): E over sigma, eps of weight(sigma) |x0_hat - x0|^2."""

from torch import Tensor

from data.batch import Cond

from ..diffusion.corrupt import add_noise
from ..diffusion.denoiser import weighted_error
from ..diffusion.noise import lognormal_sigma
from ..draws import Draws
from .objective import Denoises


class Denoising:
    """What every stage is trained with so far; see `Objective`."""

    def levels(self, stage: Denoises, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Levels (b,) from uniform u (b,): log(sigma) is normal. None: no level is drawn more often than the loss counts it."""
        noise = stage.config.noise
        return lognormal_sigma(u, mean=noise.mean, std=noise.std), None

    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, sigma: Tensor, draws: Draws) -> Tensor:
        """(b,) weighted squared error of each image, a mean over its numbers."""
        x = add_noise(x0, sigma, draws.noise("eps", x0.shape))
        x0_hat = stage.denoise(x, sigma, cond).x0_hat
        return weighted_error(x0_hat, x0, stage.parametrisation.weight(sigma, cond.value("aug")))


DENOISING = Denoising()
