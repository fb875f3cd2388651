"""One stage's sampling: a coroutine to be driven and a guided denoiser to drive it. Used by training grids and the cascade."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Cond

from .config import SampleConfig
from .diffusion.corrupt import augment, normals
from .diffusion.guidance import guide, is_guided
from .diffusion.noise import power_grid
from .diffusion.samplers import SAMPLERS, Denoiser, Sampler, drive
from .randomness import generators
from .stage import Stage
from .super_res import SuperResStage


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a stage's pictures are given, row by row: the condition and, for super-resolution, the augmented low_res."""

    cond: Cond
    low_res: Tensor | None = None
    aug_sigma: Tensor | None = None


def give_low_res(stage: SuperResStage, cond: Cond, low_res: Tensor, aug_sigma: float, noise: Tensor) -> Given:
    """The condition of a super-resolution stage at one aug_sigma: low_res (b, c, h, w) enlarged, then noised with `noise`."""
    level = torch.full((len(low_res),), aug_sigma, device=low_res.device)
    return Given(cond=cond, low_res=augment(stage.enlarge(low_res), level, noise), aug_sigma=level)


def image_noise(
    stage: str, seed: int, index: Tensor, purpose: str, shape: tuple[int, ...], device: torch.device | str
) -> Tensor:
    """(b, *shape): row k is a function of (seed, index[k], stage, purpose) alone. Drawn on the CPU: the same on every device."""
    return normals(generators(seed, index, f"{stage}/{purpose}"), shape).to(device)


def start(settings: SampleConfig, noise: Tensor, given: Given) -> Sampler:
    """The sampler of a request, from standard normal noise (b, c, h, w).

    The chain should start at x0 + sigma_max * noise; x0 is unknown, and its best stand-in is the condition where there is one
    (relay diffusion, Teng et al. 2023), else 0. The stand-in's error is what sigma_max must drown: 0.2 for an upsampled picture, 1
    for none, so super-resolution can start an order of magnitude lower.
    """
    sigmas = power_grid(
        settings.num_steps, sigma_min=settings.sigma_min, sigma_max=settings.sigma_max, rho=settings.rho
    )
    x = noise * settings.sigma_max
    return SAMPLERS[settings.sampler](x if given.low_res is None else x + given.low_res, sigmas)


def guided(stage: Stage, settings: SampleConfig, given: Given) -> Denoiser:
    """x0_hat under classifier-free guidance; the unconditional rows ride in the same network call."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        scale = settings.guidance_scale
        if not is_guided(scale, sigma[0].item(), settings.guidance_interval):
            return stage.denoise(x, sigma, given.cond, given.low_res, given.aug_sigma)
        both = stage.denoise(
            torch.cat([x, x]),
            torch.cat([sigma, sigma]),
            Cond.cat([given.cond, given.cond.null()]),
            None if given.low_res is None else torch.cat([given.low_res, given.low_res]),
            None if given.aug_sigma is None else torch.cat([given.aug_sigma, given.aug_sigma]),
        )
        x0_cond, x0_null = both.chunk(2)
        return guide(x0_cond, x0_null, torch.full_like(sigma, scale))

    return denoise


@torch.inference_mode()
def sample_alone(stage: Stage, settings: SampleConfig, given: Given, noise: Tensor) -> Tensor:
    """x0 (b, c, h, w) in [-1, 1] from one stage, start to end."""
    return drive(start(settings, noise, given), guided(stage, settings, given)).clamp(-1, 1)
