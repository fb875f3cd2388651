"""Truncated sampling: a stage stops at a level of noise and hands its noisy x on, with that level (Ho et al. 2021, section 4.1).

THE upsample turns white noise of std sigma into smooth noise of std 0.81 sigma (`UPSAMPLED`; from two to eight times the side). A
super-resolution stage that takes it as its condition is told that std as aug_sigma. It was trained on white noise; this one has
stds from 0.69 to 0.94 sigma within a cell of 4 x 4 px, and neighbours correlate by 0.93: the higher the level, the less it is what
the stage knows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Cond

from .config import SampleConfig
from .diffusion.grids import GRIDS
from .diffusion.noise import until
from .diffusion.samplers import SAMPLERS, Noise
from .kinds.super_res import SuperResStage
from .sampling import answering, finished
from .stage import Stage

UPSAMPLED = 0.814


@dataclass(frozen=True, kw_only=True)
class Handover:
    """x (b, c, *size) = x0 + sigma * eps of a stage, as its sampler left it at sigma; 0: finished."""

    x: Tensor
    sigma: float


@torch.inference_mode()
def sample_until(
    stage: Stage, settings: SampleConfig, cond: Cond, noise: Noise, shape: tuple[int, ...], sigma_end: float
) -> Handover:
    """Sample a stage down to sigma_end: the levels of its settings that lie above it, then sigma_end itself. Raises ValueError if
    sigma_end is not between sigma_min and the first level."""
    levels = until(GRIDS[settings.grid].levels(settings), sigma_end)
    mean = cond.value("low_res")
    x = levels[0].item() * noise("start", shape)
    sampler = SAMPLERS[settings.sampler](x if mean is None else x + mean, levels, noise, settings.options)
    return Handover(x=finished(sampler, answering(stage, settings, cond, noise)), sigma=sigma_end)


def given_noisy(stage: SuperResStage, cond: Cond, below: Handover) -> Cond:
    """The condition of a super-resolution stage from a noisy picture of the stage below, with the aug_sigma that its noise has once
    it is upsampled. Raises ValueError if the stage was trained on less."""
    level = UPSAMPLED * below.sigma
    if level > stage.config.max_aug_sigma:
        raise ValueError(
            f"handover: noise of {below.sigma:g} is aug_sigma {level:.3g} once upsampled, above "
            f"{stage.config.max_aug_sigma:g}, the largest the stage was trained on; stop at a lower level"
        )
    low_res = stage.enlarge(below.x)
    return cond.given(low_res=low_res, aug=torch.full((len(low_res),), level, device=low_res.device))


def without_aug(noise: Noise) -> Noise:
    """The noise of a stage whose low_res has its noise already: none is drawn for "aug"."""

    def drawn(purpose: str, shape: tuple[int, ...]) -> Tensor:
        values = noise(purpose, shape)
        return torch.zeros_like(values) if purpose == "aug" else values

    return drawn


def finish(stage: Stage, settings: SampleConfig, cond: Cond, noise: Noise, below: Handover) -> Tensor:
    """Continue a stage's own handover to x0, on the levels of its settings below that of the handover."""
    levels = GRIDS[settings.grid].levels(settings)
    rest = torch.cat([levels.new_tensor([below.sigma]), levels[levels < below.sigma]])
    sampler = SAMPLERS[settings.sampler](below.x, rest, renamed(noise), settings.options)
    return finished(sampler, answering(stage, settings, cond, noise))


def renamed(noise: Noise) -> Noise:
    """The noise for purposes of its own, so that a second sampler of the same stage draws anew."""
    return lambda purpose, shape: noise(f"continued {purpose}", shape)
