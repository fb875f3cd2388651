"""One stage's sampling: a coroutine to be driven and a guided denoiser to drive it. Used by training grids and the cascade."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import Cond

from .config import SampleConfig
from .diffusion.corrupt import augment, normals
from .diffusion.guidance import guide, is_guided
from .diffusion.samplers import SAMPLERS, Denoiser, Query, Sampler, drive
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
    x = noise * settings.sigma_max
    return SAMPLERS[settings.sampler](x if given.low_res is None else x + given.low_res, settings.sigmas)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A sampler's query with everything the network must know to answer it. scale: of the guidance at this level, 1 is off."""

    query: Query
    given: Given
    scale: float

    @property
    def rows(self) -> int:
        """Rows of the network's batch: the unconditional half of guidance counts, too."""
        return len(self.query.x) * (2 if self.scale != 1 else 1)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pictures."""
        h, w = self.query.x.shape[-2:]
        return h, w

    @property
    def make(self) -> tuple:
        """Asks of the same make can share a batch."""
        cond = self.given.cond
        parts = (self.query.x, cond.label, cond.text, self.given.low_res)
        return tuple(None if part is None else part.shape[1:] for part in parts)


def ask(settings: SampleConfig, query: Query, given: Given) -> Ask:
    """A query under the guidance that is set for its level."""
    is_on = is_guided(settings.guidance_scale, query.sigma[0].item(), settings.guidance_interval)
    return Ask(query=query, given=given, scale=settings.guidance_scale if is_on else 1.0)


def answer(
    stage: Stage, asks: Sequence[Ask], *, batch: int = 1 << 30, buckets: bool = False, device: torch.device | str = ""
) -> list[Tensor]:
    """x0_hat of each ask, all of one make, in shared calls of at most `batch` rows; the unconditional rows ride along.

    buckets: fill each call up to a power of two, so that a compiled network meets few shapes. device: the stage's, by default
    that of the asks. An answer is where its ask is.
    """
    device = torch.device(device or asks[0].query.x.device)
    guided = [one for one in asks if one.scale != 1]
    x, sigma, low_res, aug_sigma = (
        _joined([pick(one) for one in (*asks, *guided)], device)
        for pick in (
            lambda one: one.query.x,
            lambda one: one.query.sigma,
            lambda one: one.given.low_res,
            lambda one: one.given.aug_sigma,
        )
    )
    cond = Cond.cat(
        [*(one.given.cond.to(device) for one in asks), *(one.given.cond.null().to(device) for one in guided)]
    )
    assert x is not None
    assert sigma is not None
    parts = []
    for begin in range(0, len(x), batch):
        num = min(batch, len(x) - begin)
        rows = torch.arange(begin, begin + num, device=device)
        if buckets:
            rows = F.pad(rows, (0, min(1 << (num - 1).bit_length(), batch) - num), value=begin)
        low_rows, aug_rows = (None if part is None else part[rows] for part in (low_res, aug_sigma))
        parts.append(stage.denoise(x[rows], sigma[rows], cond[rows], low_rows, aug_rows)[:num])
    answers = list(torch.cat(parts).split([len(one.query.x) for one in (*asks, *guided)]))
    nulls = iter(answers[len(asks) :])
    found = []
    for one, x0_hat in zip(asks, answers, strict=False):
        if one.scale != 1:
            x0_hat = guide(x0_hat, next(nulls), torch.full((len(x0_hat),), one.scale, device=device))
        found.append(x0_hat.to(one.query.x.device, copy=True))  # a part of the batch would keep all of it
    return found


def _joined(parts: list[Tensor | None], device: torch.device) -> Tensor | None:
    there = [part.to(device) for part in parts if part is not None]
    return torch.cat(there) if there else None


def guided(stage: Stage, settings: SampleConfig, given: Given) -> Denoiser:
    """x0_hat under classifier-free guidance, for one sampler alone."""
    return lambda x, sigma: answer(stage, [ask(settings, Query(x, sigma), given)])[0]


@torch.inference_mode()
def sample_alone(stage: Stage, settings: SampleConfig, given: Given, noise: Tensor) -> Tensor:
    """x0 (b, c, h, w) in [-1, 1] from one stage, start to end."""
    return drive(start(settings, noise, given), guided(stage, settings, given)).clamp(-1, 1)
