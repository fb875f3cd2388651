"""Denoising score matching (EDM, eq. 2 and 8): the expectation over sigma, eps of weight(sigma) |x0_hat - x0|^2."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.batch import Cond

from ..diffusion.corrupt import add_noise
from ..diffusion.denoiser import weighted_error
from ..draws import Draws
from ..losses import Losses
from .denoising_config import DenoisingConfig, WeightedConfig
from .importance import Importance
from .objective import Denoises, Levels, Objective
from .table import LevelTable
from .weights import Weight

if TYPE_CHECKING:
    from .law_config import Law


@dataclass(frozen=True, kw_only=True)
class Drawn(Levels):
    """factor (b,): of the weight at these levels; importance sampling, scale and what was learned."""

    factor: Tensor


class Denoising(Objective[Drawn]):
    """The default objective of every stage. Validation always compares by the default weight at the stage's own levels, so that
    losses of runs with different objectives compare, and the best checkpoint means the same throughout."""

    def __init__(self, config: WeightedConfig):
        self.config = config
        self.weight: Weight = config.weight.build()
        self.importance = Importance(config.importance) if config.importance else None

    def law(self, stage: Denoises) -> "Law":
        """The law of the levels."""
        return self.config.levels.law(stage.config.noise)

    def levels(self, stage: Denoises, u: Tensor) -> Drawn:
        """Levels of the law, or drawn by importance from its bins."""
        law, factor = self.law(stage), torch.ones_like(u)
        if self.importance:
            u, bin_ = self.importance.drawn(u)
            factor = self.importance.weight(bin_)
        sigma = law(u)
        return Drawn(sigma=sigma, factor=factor * self.weight.scale(stage, law) * self.weight.learned(law, sigma))

    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: Drawn, draws: Draws) -> Tensor:
        """Weighted squared error (b,) of each image, averaged over its elements."""
        x = add_noise(x0, levels.sigma, draws.noise("eps", x0.shape))
        x0_hat = stage.denoise(x, levels.sigma, cond).x0_hat
        return weighted_error(x0_hat, x0, self.weight_of(stage, cond, levels))

    def weight_of(self, stage: Denoises, cond: Cond, levels: Drawn) -> Tensor:
        """The whole weight (b,) of the squared error."""
        return levels.factor * self.weight.own(stage, levels.sigma, cond.value("aug"))

    @property
    def judge(self) -> Objective:
        """`DENOISING`."""
        return DENOISING

    def learn(self, stage: Denoises, losses: Sequence[Losses], total: Callable[[Tensor], Tensor]) -> None:
        """Update the tables by the losses of an update: of uncertainty their mean without its own factor, of importance the mean of
        their squares."""
        if not self._tables():
            return
        law = self.law(stage)
        sigma = torch.cat([part.sigma for part in losses]).double().cpu()
        loss = torch.cat([self.as_logged(stage, part) for part in losses])
        new = []
        if self.weight.table:
            raw = loss / self.weight.learned(law, sigma)
            new.append((self.weight.table, bins_of(law, sigma, self.weight.table.bins), raw))
        if self.importance:
            table = self.importance.table
            new.append((table, bins_of(law, sigma, table.bins), loss.square()))
        for table, bin_, number in new:
            table.add(bin_, number, total)

    def as_logged(self, stage: Denoises, losses: Losses) -> Tensor:
        """The losses (b,) without the factor against how often a level is drawn, so that means by level are those of the law."""
        loss = losses.per_image.double().cpu()
        if not self.importance:
            return loss
        sigma = losses.sigma.double().cpu()
        return loss / self.importance.weight(bins_of(self.law(stage), sigma, self.importance.table.bins))

    def state(self) -> dict[str, Tensor]:
        """The tables, by name."""
        return {name: tensor for table in self._tables() for name, tensor in table.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the tables."""
        for table in self._tables():
            table.load(state)

    def _tables(self) -> list[LevelTable]:
        tables = [self.weight.table, self.importance.table if self.importance else None]
        return [table for table in tables if table is not None]


def bins_of(law: "Law", sigma: Tensor, bins: int) -> Tensor:
    """Which of `bins` equal shares of the law each sigma (b,) lies in; at an edge float32 may have moved it to the next."""
    edges = law(torch.arange(1, bins, dtype=torch.float64) / bins)
    return torch.bucketize(sigma.contiguous(), edges, right=True)


DENOISING = Denoising(DenoisingConfig.defaults())
