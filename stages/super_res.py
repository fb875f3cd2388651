"""The super-resolution stage: p(x0 | low_res, cond), trained on pictures alone - its low_res is THE downsample of x0.

At sampling low_res comes from another model and is never quite a downsampled picture; conditioning augmentation (Ho et al. 2021)
makes the stage robust to that: the upsampled low_res is noised by a level drawn per image, and the network is told the level.
"""

import torch
from torch import Tensor

from data.batch import Batch
from data.resize import downsample, upsample

from .config import SuperResConfig
from .diffusion.corrupt import add_noise, augment
from .diffusion.denoiser import scalings, weighted_error
from .diffusion.noise import lognormal_sigma
from .stage import Losses, Stage, noise


class SuperResStage(Stage):
    config: SuperResConfig

    def forward(self, batch: Batch, seed: int, low_res: Tensor | None = None) -> Losses:
        """The base stage's loss, given the augmented low_res: THE downsample of x0, or in validation another stage's picture
        (b, c, low_res, low_res) in [-1, 1] of the same thing."""
        u = self._draws(batch, seed)
        x0 = self._picture(batch, u)
        cond = self._dropped(batch.cond, u)
        levels = self.config.noise

        own = downsample(x0, (self.config.low_res, self.config.low_res))
        low_res = self.enlarge(own if low_res is None else self._flipped(low_res, u))
        x0, low_res = self._aligned_crops(x0, low_res, u)
        aug_sigma = (self.config.aug.max_sigma * u["aug_sigma"].square()).to(x0)
        low_res = augment(low_res, aug_sigma, noise(batch, seed, "aug", x0.shape))

        sigma = lognormal_sigma(u["sigma"], mean=levels.mean, std=levels.std).to(x0)
        x = add_noise(x0, sigma, noise(batch, seed, "eps", x0.shape))
        x0_hat = self.denoise(x, sigma, cond, low_res, aug_sigma)
        weight = scalings(sigma, sigma_data=levels.sigma_data, low_res_sigma=self.error(aug_sigma)).weight
        per_image = weighted_error(x0_hat, x0, weight)
        return Losses(loss=per_image.mean(), per_image=per_image.detach(), sigma=torch.clone(sigma))

    def enlarge(self, low_res: Tensor) -> Tensor:
        """The condition before augmentation: low_res (b, c, h, w) upsampled by the stage's factor."""
        h, w = low_res.shape[-2:]
        return upsample(low_res, (h * self.config.factor, w * self.config.factor))

    def _aligned_crops(self, x0: Tensor, low_res: Tensor, u: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same window of both, its corner on the low-res grid. Cut after resizing, so that window edges see what the whole
        picture's kernel saw; cutting first would train on edges that sampling never shows."""
        crop, factor = self.config.crop, self.config.factor
        if not crop or crop == self.config.resolution:
            return x0, low_res
        places = (self.config.resolution - crop) // factor + 1
        rows = (u["crop_y"] * places).long() * factor
        cols = (u["crop_x"] * places).long() * factor
        windows = [(slice(None), slice(r, r + crop), slice(c, c + crop)) for r, c in zip(rows, cols, strict=True)]
        return (
            torch.stack([image[window] for image, window in zip(x0, windows, strict=True)]),
            torch.stack([image[window] for image, window in zip(low_res, windows, strict=True)]),
        )
