"""The base stage: p(x0 | cond), from pure noise to the lowest resolution."""

import torch

from data.batch import Batch

from .config import BaseConfig
from .diffusion.corrupt import add_noise
from .diffusion.denoiser import scalings, weighted_error
from .diffusion.noise import lognormal_sigma
from .stage import Losses, Stage, noise


class BaseStage(Stage):
    config: BaseConfig

    def forward(self, batch: Batch, seed: int) -> Losses:
        """Denoising score matching (EDM, eq. 2 and 8): E over sigma, eps of weight(sigma) |x0_hat - x0|^2."""
        u = self._draws(batch, seed)
        x0 = self._picture(batch, u)
        cond = self._dropped(batch.cond, u)
        levels = self.config.noise
        sigma = lognormal_sigma(u["sigma"], mean=levels.mean, std=levels.std).to(x0)

        x = add_noise(x0, sigma, noise(batch, seed, "eps", x0.shape))
        x0_hat = self.denoise(x, sigma, cond)
        weight = scalings(sigma, sigma_data=levels.sigma_data).weight
        per_image = weighted_error(x0_hat, x0, weight)
        return Losses(loss=per_image.mean(), per_image=per_image.detach(), sigma=torch.clone(sigma))
