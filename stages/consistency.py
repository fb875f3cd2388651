"""Agreement with low_res: corrections of a super-resolution stage's x0 by the picture that it enlarges.

Low-res consistency adds what THE downsample d of D = x0_hat lacks, enlarged by THE upsample U: D + w U(low_res - d D). One step of
back-projection (Irani and Peleg 1991); applied to every answer it is ILVR's condition (Choi et al. 2021) without its noise. Colour
correction moves mean and std of each channel, measured on d D, to those of low_res (Reinhard et al. 2001).

x0 (b, c, *size); low_res (b, c, *takes) at its own size, in the stage's space, neither enlarged nor noised.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import SampleConfig
from .diffusion.samplers import Answer, Query
from .spaces.space import Space

FLAT = 1e-3  # a channel of less std has no contrast to scale, only a mean to move


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The corrections that a stage's settings ask for, with the low_res of some images: a shaper (cascade/engine/shaper.py)."""

    low_res: Tensor
    space: Space
    settings: SampleConfig

    def each(self, query: Query, answer: Answer) -> Answer:
        """Correct an answer at a level up to `consistency_sigma`; other rows keep theirs, bit for bit."""
        rows = query.sigma <= self.settings.consistency_sigma
        if not self.settings.consistency or not rows.any():
            return answer
        low_res = self.low_res if query.rows is None else self.low_res[query.rows]
        x0_hat = answer.x0_hat.clone()
        x0_hat[rows] = consistent(x0_hat[rows], low_res[rows], self.space, self.settings.consistency)
        return replace(answer, x0_hat=x0_hat)

    def finish(self, x0: Tensor) -> Tensor:
        """Correct the stage's x0: first its colours, then what low_res says of each place."""
        if self.settings.colour:
            x0 = recoloured(x0, self.low_res, self.space, self.settings.colour)
        if self.settings.consistency:
            x0 = consistent(x0, self.low_res, self.space, self.settings.consistency)
        return x0


def agreement(settings: SampleConfig, low_res: Tensor | None, space: Space) -> list[Agreement]:
    """The corrections of a stage as a list of shapers: empty where the settings ask for none or there is no low_res."""
    if low_res is None or not (settings.consistency or settings.colour):
        return []
    return [Agreement(low_res=low_res, space=space, settings=settings)]


def consistent(x0: Tensor, low_res: Tensor, space: Space, weight: float) -> Tensor:
    """D + weight * U(low_res - d D), where D is x0 within the bounds of the space, as it would be stored."""
    stored = x0.clamp(*space.bounds)
    missing = low_res - space.down(stored, tuple(low_res.shape[2:]))
    return stored + weight * space.up(missing, tuple(x0.shape[2:]))


def recoloured(x0: Tensor, low_res: Tensor, space: Space, strength: float) -> Tensor:
    """x0 with mean and std of each channel moved by `strength` from those of d D to those of low_res."""
    small = space.down(x0.clamp(*space.bounds), tuple(low_res.shape[2:]))
    axes = tuple(range(2, x0.ndim))
    mean, std = small.mean(axes, keepdim=True), small.std(axes, correction=0, keepdim=True)
    mean_low, std_low = low_res.mean(axes, keepdim=True), low_res.std(axes, correction=0, keepdim=True)
    ratio = torch.where(std > FLAT, std_low / std.clamp(min=FLAT), torch.ones_like(std))
    return x0 + strength * ((x0 - mean) * ratio + mean_low - x0)
