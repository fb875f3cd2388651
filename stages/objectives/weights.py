"""How an objective weighs |x0_hat - x0|^2.

A weight of sigma alone is divided by the mean of weight / P over the training levels, P the parametrisation's own weight. At the
start of training, where F = 0, the expected loss then is that of the default: learning rates and clipping stay comparable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import StageConfig
from ..diffusion.weights import edm
from .table import LevelTable
from .weight_config import UncertaintyWeightConfig, WeightConfig

if TYPE_CHECKING:
    from .law_config import Law
    from .objective import Denoises

NUM_LEVELS, NUM_AUG = 256, 16


class Weight(ABC):
    """A weight. `own` is a function of the level; `scaled` divides by its mean, see the module."""

    def __init__(self, config: WeightConfig):
        self.config = config
        self._scale: tuple[StageConfig, float] | None = None

    @abstractmethod
    def own(self, stage: "Denoises", sigma: Tensor, aug: Tensor | None) -> Tensor:
        """The weight (b,) at sigma (b,), before scaling. aug (b,): the level of low_res's noise."""

    def scale(self, stage: "Denoises", law: "Law") -> float:
        """What `own` is multiplied by, for a stage and a law of levels."""
        if self._scale is None or self._scale[0] is not stage.config:
            self._scale = stage.config, self._measured(stage, law)
        return self._scale[1]

    def _measured(self, stage: "Denoises", law: "Law") -> float:
        """1 over the mean of weight / P, over midpoints of sigma and, with a low_res, of aug_sigma = max u^2."""
        sigma = law(midpoints(NUM_LEVELS)).repeat_interleave(NUM_AUG)
        aug = None
        if stage.config.takes is not None:
            aug = stage.config.max_aug_sigma * midpoints(NUM_AUG).square().repeat(NUM_LEVELS)
        ratio = self.own(stage, sigma, aug).double() / stage.parametrisation.weight(sigma, aug).double()
        return 1 / ratio.mean().item()

    @property
    def table(self) -> LevelTable | None:
        """What the weight learns: the mean loss by level."""
        return None

    def learned(self, law: "Law", sigma: Tensor) -> Tensor | float:
        """The learned factor (b,) float64 at sigma (b,) float64."""
        return 1.0


class OfParametrisation(Weight):
    """The parametrisation's own."""

    def own(self, stage: "Denoises", sigma: Tensor, aug: Tensor | None) -> Tensor:
        """The weight (b,)."""
        return stage.parametrisation.weight(sigma, aug)

    def scale(self, stage: "Denoises", law: "Law") -> float:
        """1."""
        return 1.0


class OfLevel(Weight):
    """A function of sigma (diffusion/weights.py)."""

    def __init__(self, config: WeightConfig):
        super().__init__(config)
        function = resolve_name(f"stages.diffusion.weights:{config.function}")
        self.function: Callable[[Tensor], Tensor] = partial(function, **config.model_dump(exclude={"kind"}))

    def own(self, stage: "Denoises", sigma: Tensor, aug: Tensor | None) -> Tensor:
        """The weight (b,)."""
        return self.function(sigma)


class OfEDM(Weight):
    """EDM's."""

    def own(self, stage: "Denoises", sigma: Tensor, aug: Tensor | None) -> Tensor:
        """The weight (b,)."""
        return edm(sigma, sigma_data=stage.config.noise.sigma_data)


class Uncertainty(OfParametrisation):
    """The parametrisation's weight over the mean loss at that level, as learned so far: every level adds 1 to the loss.

    Karras et al. 2024 (EDM2) train u(sigma) in loss / exp(u) + u beside the network. Its optimum given the loss is
    u = log E[loss | sigma], which is a mean: it is kept as one, by bins, and needs neither a gradient nor an optimizer. Another
    weight of sigma underneath would cancel. Between the middles of bins log(mean) is linear in log(sigma).
    """

    def __init__(self, config: UncertaintyWeightConfig):
        super().__init__(config)
        self._table = LevelTable("uncertainty", bins=config.bins, half_life=config.half_life)

    @property
    def table(self) -> LevelTable:
        """Mean loss by level."""
        return self._table

    def learned(self, law: "Law", sigma: Tensor) -> Tensor:
        """exp(-u) (b,)."""
        middles, u = law(midpoints(self._table.bins)).log(), self._table.means().log()
        at = sigma.log()
        right = torch.bucketize(at.contiguous(), middles).clamp(1, len(middles) - 1)
        share = ((at - middles[right - 1]) / (middles[right] - middles[right - 1])).clamp(0, 1)
        return (-torch.lerp(u[right - 1], u[right], share)).exp()


def midpoints(num: int) -> Tensor:
    """The middles (num,) float64 of as many equal parts of [0, 1)."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num
