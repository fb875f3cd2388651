"""Uncertainty: how unsure a stage with learned variance is of each pixel, as a gray picture.

Its network says Var(x0 | x) with each answer, at no cost (stages/diffusion/variance.py). Shown is the std, with its square averaged
over the channels: black for none, white for sigma_data or more, which is what is unsure before anything is seen. A value of 51 is a
fifth of it: 0.1 in [-1, 1], 13 levels of 255, at the usual sigma_data of 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.diffusion.samplers import Answer, Query

from .engine.canvas import Canvas

if TYPE_CHECKING:
    from .link import Link


@dataclass(kw_only=True)
class Uncertainty:
    """Follows the answers of a stage to one chunk.

    now (b, 1, *size): Var(x0 | x) / sigma_data^2 of the newest answer, averaged over the channels. kept: of each image's first
    answer at a level of at most sigma_data, as in the grids of training, until then of the newest; at the end of a sampler
    nothing is unsure any more. level (b,): that of `kept`.
    """

    sigma_data: float
    now: Tensor | None = None
    kept: Tensor | None = None
    level: Tensor | None = None

    def __call__(self, query: Query, answer: Answer) -> None:
        """Take an answer."""
        assert answer.var is not None
        share = answer.var.float().mean(1, keepdim=True) / self.sigma_data**2
        if self.now is None or self.kept is None or self.level is None:
            self.now, self.kept, self.level = share, share, query.sigma
            return
        rows = torch.arange(len(share), device=share.device) if query.rows is None else query.rows
        self.now = self.now.index_copy(0, rows, share)
        early = self.level[rows] > self.sigma_data
        self.kept = self.kept.index_copy(0, rows[early], share[early])
        self.level = self.level.index_copy(0, rows[early], query.sigma[early])


def as_picture(share: Tensor, canvas: Canvas) -> Tensor:
    """The picture uint8 (b, 3, h, w) of Var(x0 | x) / sigma_data^2 (b, 1, *size), without the canvas's margins."""
    levels = (255 * share.sqrt()).round().clamp(max=255).to(torch.uint8).cpu()
    px = levels.repeat_interleave(canvas.scale, -1).repeat_interleave(canvas.scale, -2)
    return canvas.cut(px).expand(-1, 3, *px.shape[2:-2], -1, -1)


def check_able(links: Sequence["Link"], chain: Sequence["Link"], what: str) -> None:
    """Raise ValueError unless one of these stages of a chain predicts a variance. what: begins the message."""
    able, asked = ([link.name for link in each if link.sidecar.config.learned_variance] for each in (chain, links))
    if not asked:
        names = ", ".join(link.name for link in links)
        hint = f"of this cascade {', '.join(able)} can" if able else "no stage of this cascade can, leave it out"
        raise ValueError(f"{what}: {names} cannot tell it, trained without learned_variance; {hint}")
