"""A request's source in one stage: where its sampler starts, and the shaper that keeps what is known.

Known pixels of x are P + sigma n with the image's own start noise n at every level, because every answer is P there
(stages/diffusion/control.py). Painted ones start as they would without a source, or, where the strength is a level below the
stage's first, at P with noise.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from data.batch import Cond
from stages.config import SampleConfig
from stages.diffusion.control import inverted, pinned, resampled, start_level
from stages.diffusion.samplers import SAMPLERS, Answer, Noise, Query, Sampler

from ..link import Link
from ..source import Source
from .canvas import Canvas


@dataclass(frozen=True, kw_only=True)
class Control:
    """A source on the canvas of a stage. x0 (b, c, *size): the picture; known (b, 1, *size): what is kept of it."""

    x0: Tensor
    known: Tensor
    link: Link
    is_inverted: bool

    @classmethod
    def of(cls, source: Source, link: Link, canvas: Canvas) -> Self:
        """Shrink a source to the stage's pictures and continue it over the canvas."""
        shrunk, scale = source.at(canvas.inner), canvas.scale
        known = canvas.framed(shrunk.known).float()
        cells = torch.nn.functional.avg_pool2d(known, scale) >= 1  # known where all of its px are
        x0 = link.stage.space.load(canvas.framed(shrunk.images)).to(link.device)
        return cls(x0=x0, known=cells.to(link.device), link=link, is_inverted=source.inverted)

    @property
    def level(self) -> float:
        """The first level."""
        return level_of(self.link)

    @property
    def levels(self) -> Tensor:
        """The stage's levels from the first on: its grid's, with sigma_max there; of a grid that does not move, those below."""
        settings = self.link.settings
        if self.level == settings.sigma_start:
            return settings.sigmas
        sigmas = settings.model_copy(update={"sigma_max": self.level}).sigmas
        if math.isclose(sigmas[0].item(), self.level, rel_tol=1e-9):
            return sigmas
        return torch.cat([sigmas.new_tensor([self.level]), sigmas[sigmas < self.level]])

    def start(self, noise: Noise, cond: Cond, x: Tensor | None = None) -> Sampler:
        """Start the stage's sampler. x: the inverted picture at the first level, which replaces the noise of what is painted."""
        settings, low_res = self.link.settings, cond.value("low_res")
        if x is None:
            mean = torch.zeros_like(self.x0) if low_res is None else low_res
            is_seen = (
                self.level < settings.sigma_start
            )  # else the level does not drown it where it is not what is painted
            mean = self.x0 if is_seen else pinned(mean, self.known, self.x0)
            x = self.level * noise("start", tuple(self.x0.shape)) + mean
        if settings.resample > 1:
            return resampled(x, self.levels, noise, settings.resample)
        return SAMPLERS[settings.sampler](x, self.levels, noise, settings.options)

    def inversion(self) -> Sampler:
        """The coroutine whose result is x at the first level."""
        return inverted(self.x0, self.levels)

    def each(self, query: Query, answer: Answer) -> Answer:
        """Keep what is known in an answer, with no uncertainty."""
        known, x0 = (each if query.rows is None else each[query.rows] for each in (self.known, self.x0))
        var = None if answer.var is None else pinned(answer.var, known, torch.zeros_like(answer.var))
        return replace(answer, x0_hat=pinned(answer.x0_hat, known, x0), var=var)

    def finish(self, x0: Tensor) -> Tensor:
        """Keep what is known in the result: stored, it is the given picture bit for bit."""
        return pinned(x0, self.known, self.x0)


def level_of(link: Link) -> float:
    """The level at which a stage with a source starts."""
    settings = link.settings
    return start_level(settings.strength, link.sidecar.config.noise.sigma_data, settings.sigma_start)


def unguided(settings: SampleConfig) -> SampleConfig:
    """Settings without guidance, for the way up: it is the inverse of the way down only where neither is guided."""
    return settings.model_copy(
        update={
            **{"guidance_scale": 1.0, "guidance_text": None, "guidance_label": None, "autoguidance_scale": 1.0},
            **{"guidance_rescale": 0.0, "dynamic_threshold": 1.0, "anneal_scale": 0.0},
        }
    )
